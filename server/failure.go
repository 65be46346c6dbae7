package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"latent/chat"
	"latent/engine"
	"latent/sample"
)

// failure is an error as clients see it.
type failure struct {
	status     int
	kind       string // "type" on the wire
	code       string
	param      string // path of the field at fault, such as "messages[2].role"
	message    string
	retryAfter time.Duration // 0: no Retry-After
}

func (f *failure) Error() string { return f.message }

// Types of errors.
const (
	kindInvalid   = "invalid_request_error"
	kindAuth      = "authentication_error"
	kindRateLimit = "rate_limit_error"
	kindServer    = "server_error"
)

// statusClientClosed is logged, never sent: the client went away.
const statusClientClosed = 499

// retrySoon is for states that last seconds.
const retrySoon = 5 * time.Second

// invalid is a 400 for the field at path.
func invalid(path, format string, args ...any) *failure {
	return &failure{
		status: http.StatusBadRequest, kind: kindInvalid, code: "invalid_value", param: path,
		message: prefixed(path, fmt.Sprintf(format, args...)),
	}
}

// unsupported is a 400 for a field that is understood but not honoured.
func unsupported(path, format string, args ...any) *failure {
	f := invalid(path, format, args...)
	f.code = "unsupported_parameter"
	return f
}

func prefixed(path, message string) string {
	if path == "" {
		return message
	}
	return path + ": " + message
}

func notReady(code, message string) *failure {
	return &failure{status: http.StatusServiceUnavailable, kind: kindServer, code: code, message: message, retryAfter: retrySoon}
}

// Causes for which the server ends requests.
var errShutdown = errors.New("the server shuts down")

// failureOf says what an error of encoding, submitting or generating is to the
// client. retry is what to advise when the queue is full.
func failureOf(err error, retry func() time.Duration) *failure {
	var (
		own     *failure
		input   *chat.InputError
		param   *sample.ParamError
		request *engine.RequestError
		long    *engine.TooLongError
		full    *engine.QueueFullError
		inUse   *engine.InUseError
		failed  *engine.FailedError
	)
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &input):
		return invalid(input.Where, "%s", input.What)
	case errors.As(err, &param):
		return invalid(param.Param, "is %v, want %s", param.Value, param.Want)
	case errors.As(err, &long):
		f := invalid("", "the prompt has %d tokens and %d more were asked for, but the context holds %d together; %s",
			long.Prompt, long.MaxTokens, long.Limit, remedy(long))
		f.code = "context_length_exceeded"
		return f
	case errors.As(err, &request):
		return invalid("", "%s: %s", request.Field, request.Problem)
	case errors.As(err, &full):
		return &failure{
			status: http.StatusTooManyRequests, kind: kindRateLimit, code: "queue_full", retryAfter: retry(),
			message: fmt.Sprintf("%d requests are waiting already, the limit is %d; try again later", full.Queued, full.Limit),
		}
	case errors.As(err, &inUse):
		return &failure{
			status: http.StatusConflict, kind: kindInvalid, code: "rid_in_use", param: "rid",
			message: fmt.Sprintf("a live request has the id %q already", inUse.ID),
		}
	case errors.As(err, &failed):
		return &failure{
			status: http.StatusInternalServerError, kind: kindServer, code: "device_error",
			message: "the model failed; this server has to be started anew",
		}
	case errors.Is(err, errShutdown), errors.Is(err, engine.ErrShutdown), errors.Is(err, engine.ErrClosed):
		f := notReady("server_shutdown", "the server shuts down")
		return f
	case errors.Is(err, context.Canceled), errors.Is(err, engine.ErrCanceled):
		return &failure{status: statusClientClosed, kind: kindInvalid, code: "client_closed", message: "the request was cancelled"}
	}
	return internalFailure()
}

// internalFailure tells the client no more than that it is not its fault; the
// log has the details.
func internalFailure() *failure {
	return &failure{status: http.StatusInternalServerError, kind: kindServer, code: "internal", message: "internal error"}
}

func remedy(e *engine.TooLongError) string {
	if room := e.Limit - e.Prompt; room > 0 {
		return fmt.Sprintf("ask for at most %d", room)
	}
	return fmt.Sprintf("shorten the prompt to fewer than %d", e.Limit)
}

// wire is the body of an error.
func (f *failure) wire() any {
	type body struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	}
	b := body{Message: f.message, Type: f.kind, Code: f.code}
	if f.param != "" {
		b.Param = &f.param
	}
	return map[string]body{"error": b}
}

// fail answers with an error.
func (x *exchange) fail(f *failure) {
	x.failure = f
	if f.status == statusClientClosed {
		x.status = f.status // nobody reads an answer
		return
	}
	if f.retryAfter > 0 {
		seconds := int64((f.retryAfter + time.Second - 1) / time.Second)
		x.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	x.writeJSON(f.status, f.wire())
}

// writeJSON answers with a value as JSON.
func (x *exchange) writeJSON(status int, v any) {
	body, err := marshal(v)
	if err != nil {
		panic(err) // all that is sent are values of this package's own types
	}
	x.Header().Set("Content-Type", "application/json")
	x.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	x.extendWriteDeadline()
	x.WriteHeader(status)
	// An error means that the client is gone; there is nothing to do about it.
	_, _ = x.Write(append(body, '\n'))
	_ = x.control.Flush() // while the deadline holds
}

// marshal writes JSON without escaping HTML.
func marshal(v any) ([]byte, error) {
	var b jsonBuffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b[:len(b)-1], nil // without the newline
}

type jsonBuffer []byte

func (b *jsonBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
