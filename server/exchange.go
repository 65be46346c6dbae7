package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"
)

// exchange is a request with its response. Handlers write through it, so that
// it knows the status.
type exchange struct {
	http.ResponseWriter
	r        *http.Request
	control  *http.ResponseController
	patience time.Duration // for a write
	id       string        // of the request, in X-Request-Id
	arrival  time.Time
	route    string // the label of metrics, "other" if there is no such path
	keyName  string // whose key it was

	status    int // sent, or statusClientClosed; 0 before
	sent      bool
	failure   *failure
	bodyBytes int64
	record    record
}

func (s *Server) newExchange(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{
		ResponseWriter: w, r: r, control: http.NewResponseController(w), arrival: time.Now(), route: otherRoute,
		patience: s.config.WriteTimeout,
		id:       requestID(r.Header.Get("X-Request-Id")),
	}
	x.Header().Set("X-Request-Id", x.id)
	return x
}

// WriteHeader notes the status.
func (x *exchange) WriteHeader(status int) {
	if !x.sent {
		x.status, x.sent = status, true
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write notes that the response has begun.
func (x *exchange) Write(p []byte) (int, error) {
	if !x.sent {
		x.status, x.sent = http.StatusOK, true
	}
	return x.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// newID returns an id that nobody can guess.
func newID() string { return strings.ToLower(rand.Text()) }

// requestID takes a client's id if it can stand in a header and a log.
func requestID(given string) string {
	const longest = 128
	if given == "" || len(given) > longest {
		return newID()
	}
	for _, c := range []byte(given) {
		if c <= ' ' || c > '~' {
			return newID()
		}
	}
	return given
}

// Deadlines are set through the connection; a recorder in a test has none, and
// an error is of no consequence otherwise: the next read or write fails.
func (x *exchange) extendWriteDeadline() {
	_ = x.control.SetWriteDeadline(time.Now().Add(x.patience))
}

// clearDeadlines lets the connection be used for further requests: deadlines
// outlive the exchange.
func (x *exchange) clearDeadlines() {
	_ = x.control.SetWriteDeadline(time.Time{})
	_ = x.control.SetReadDeadline(time.Time{})
}

// bodyTimeout is how long a client may take to send its body.
const bodyTimeout = 60 * time.Second

// body reads the request's body of at most limit bytes.
func (x *exchange) body(limit int64, timeout time.Duration) ([]byte, *failure) {
	if f := mediaType(x.r.Header); f != nil {
		return nil, f
	}
	if x.r.ContentLength > limit {
		x.Header().Set("Connection", "close")
		return nil, tooLarge(limit)
	}
	_ = x.control.SetReadDeadline(time.Now().Add(timeout))
	body, err := io.ReadAll(http.MaxBytesReader(x, x.r.Body, limit))
	_ = x.control.SetReadDeadline(time.Time{})
	x.bodyBytes = int64(len(body))
	if err == nil {
		return body, nil
	}
	x.Header().Set("Connection", "close")
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &failure{
			status: http.StatusRequestTimeout, kind: kindInvalid, code: "request_timeout",
			message: fmt.Sprintf("the body did not arrive within %s", timeout),
		}
	case errors.Is(err, context.Canceled):
		return nil, &failure{status: statusClientClosed, kind: kindInvalid, code: "client_closed", message: "the client went away"}
	}
	f := invalid("", "the body ended early or its chunks are malformed")
	f.code = "invalid_json"
	return nil, f
}

func tooLarge(limit int64) *failure {
	return &failure{
		status: http.StatusRequestEntityTooLarge, kind: kindInvalid, code: "request_too_large",
		message: fmt.Sprintf("the body has more than %d bytes (--max-request-bytes)", limit),
	}
}

// mediaType refuses what is not JSON; a missing type is taken for JSON.
func mediaType(h http.Header) *failure {
	refuse := func(found string) *failure {
		return &failure{
			status: http.StatusUnsupportedMediaType, kind: kindInvalid, code: "unsupported_media_type",
			message: fmt.Sprintf("want Content-Type: application/json, found %s", found),
		}
	}
	if encoding := h.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return refuse("Content-Encoding: " + encoding)
	}
	given := h.Get("Content-Type")
	if given == "" {
		return nil
	}
	if kind, _, err := mime.ParseMediaType(given); err == nil {
		if kind == "application/json" || strings.HasSuffix(kind, "+json") {
			return nil
		}
	}
	return refuse(given)
}

// listIgnored tells the client which of its fields mean nothing here.
func (x *exchange) listIgnored(f *fields) {
	const most = 32
	var names []string
	for _, key := range f.unknown() {
		if len(names) == most {
			names = append(names, "...")
			break
		}
		names = append(names, headerText(key))
	}
	if len(names) > 0 {
		x.Header().Set("X-Latent-Ignored", strings.Join(names, ", "))
	}
}

// headerText makes any text fit for a header.
func headerText(s string) string {
	const longest = 64
	out := make([]byte, 0, min(len(s), longest))
	for _, c := range []byte(s) {
		if len(out) == longest {
			break
		}
		if c <= ' ' || c > '~' || c == ',' {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out)
}
