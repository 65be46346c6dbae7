package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"latent"
	"latent/engine"
)

// served is a server on a listener of its own, as the command runs it.
type served struct {
	*Server
	url  string
	stop context.CancelFunc
	done chan error
}

func serve(t *testing.T, s *Server) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	v := &served{s, "http://" + l.Addr().String(), cancel, make(chan error, 1)}
	go func() { v.done <- s.Serve(ctx, l) }()
	return v
}

func (v *served) end(t *testing.T) {
	t.Helper()
	v.stop()
	http.DefaultClient.CloseIdleConnections()
	select {
	case err := <-v.done:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Serve does not end")
	}
}

// code returns the status of a request and, of an error, its code.
func (v *served) code(t *testing.T, path, body string) (int, string) {
	t.Helper()
	var resp *http.Response
	var err error
	if body == "" {
		resp, err = http.Get(v.url + path)
	} else {
		resp, err = http.Post(v.url+path, "application/json", strings.NewReader(body))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a answered
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s: no Retry-After", path)
	}
	if json.Unmarshal(data, &a) == nil && a.Error != nil {
		return resp.StatusCode, a.Error.Code
	}
	return resp.StatusCode, ""
}

const endless = `{"prompt":"Hello","max_tokens":1500,"ignore_eos":true,"stream":true}`

// slow makes steps take some time.
type slow struct{ engine.Observer }

func (s slow) Step(info *engine.StepInfo) {
	s.Observer.Step(info)
	time.Sleep(2 * time.Millisecond)
}

// TestStates: what is answered while the model loads, when it is there, and when
// it cannot be had.
func TestStates(t *testing.T) {
	s, err := New(Config{Names: []string{"demo"}})
	if err != nil {
		t.Fatal(err)
	}
	v := serve(t, s)
	check := func(when string, health, models, work, alive int, code string) {
		t.Helper()
		for _, c := range []struct {
			path, body string
			want       int
		}{
			{"/health", "", health}, {"/readyz", "", health}, {"/ping", "", health}, {"/v1/models", "", models}, {"/v1/models/demo", "", models},
			{completionsPath, `{"prompt":"x","max_tokens":1}`, work}, {"/livez", "", alive}, {"/version", "", 200}, {"/metrics", "", 200},
		} {
			got, gotCode := v.code(t, c.path, c.body)
			if got != c.want || got != 200 && gotCode != code {
				t.Errorf("%s, %s: %d %s, want %d %s", when, c.path, got, gotCode, c.want, code)
			}
		}
	}
	check("loading", 503, 503, 503, 200, "loading")
	o := exact()
	o.Observer = s.Observer()
	o.Device = "cpu"
	e, err := latent.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s.Attach(e)
	check("ready", 200, 200, 200, 200, "")
	v.end(t)
	if err := e.Close(); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}

	if s, err = New(Config{Names: []string{"demo"}}); err != nil {
		t.Fatal(err)
	}
	v = serve(t, s)
	s.Fail(errors.New("no such file"))
	check("failed", 503, 503, 503, 500, "device_error")
	v.end(t)
}

// TestHead: HEAD works where GET does.
func TestHead(t *testing.T) {
	f := start(t, Config{}, exact(), nil)
	for _, path := range []string{"/health", "/v1/models", "/metrics", "/version"} {
		if status, _, body := f.do(t, "HEAD", path, ""); status != 200 || body != "" {
			t.Errorf("HEAD %s: %d %q", path, status, body)
		}
	}
}

// TestDrain: after the order to stop the server is not ready, lets streams end,
// refuses new work, and ends.
func TestDrain(t *testing.T) {
	g, observe := gated()
	f := start(t, Config{DrainDelay: 50 * time.Millisecond, DrainTimeout: time.Minute}, exact(), observe)
	defer g.lift()
	v := serve(t, f.Server)
	f.http.URL = v.url
	// With token ids the first event comes even if the first token has no text.
	_, body := f.open(t, t.Context(), completionsPath, `{"prompt":"Hello","max_tokens":20,"ignore_eos":true,"stream":true,"return_token_ids":true}`)
	v.stop()
	eventually(t, "not ready", func() bool { status, _ := v.code(t, "/readyz", ""); return status == 503 })
	if status, _ := v.code(t, "/livez", ""); status != 200 {
		t.Errorf("/livez while draining: %d", status)
	}
	eventually(t, "new work is refused", func() bool {
		status, code := v.code(t, completionsPath, `{"prompt":"x","max_tokens":0,"echo":true,"priority":1}`)
		return status == 503 && code == "draining" // until then, 400 for the priority
	})
	g.lift()
	rest, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	if got := join(t, parseEvents(t, string(rest))); got[0].Finish != "length" {
		t.Errorf("the stream ended with %+v", got)
	}
	v.end(t)
}

// TestDrainTimeout: what does not end in time is cut off, and told so.
func TestDrainTimeout(t *testing.T) {
	f := start(t, Config{DrainTimeout: 30 * time.Millisecond}, exact(), func(o engine.Observer) engine.Observer { return slow{o} })
	v := serve(t, f.Server)
	f.http.URL = v.url
	_, body := f.open(t, t.Context(), completionsPath, endless)
	whole := make(chan int, 1)
	go func() {
		status, code := v.code(t, completionsPath, strings.Replace(endless, `"stream":true`, `"n":2`, 1))
		if code != "server_shutdown" {
			t.Errorf("a request that is not streamed gets %d %s", status, code)
		}
		whole <- status
	}()
	eventually(t, "both run", func() bool { return f.engine.Stats().Running == 3 })
	v.stop()
	rest, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	events := parseEvents(t, string(rest))
	if last := events[len(events)-1]; last.Error == nil || last.Error.Code != "server_shutdown" {
		t.Errorf("last event %+v", last)
	}
	if got := join(t, events[:len(events)-1]); got[0].Finish != "abort" || got[0].Text == "" {
		t.Errorf("the stream was %+v", got)
	}
	if status := <-whole; status != 503 {
		t.Errorf("a request that is not streamed gets %d", status)
	}
	v.end(t)
	eventually(t, "the engine is empty", func() bool { s := f.engine.Stats(); return s.Running+s.Waiting+s.Cache.Used == 0 })
}

// TestDisconnect: a client that goes away frees its pages, streamed or not.
func TestDisconnect(t *testing.T) {
	f := start(t, Config{}, exact(), func(o engine.Observer) engine.Observer { return slow{o} })
	for i, body := range []string{endless, strings.Replace(endless, `"stream":true`, `"n":3`, 1)} {
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan struct{})
		go func() {
			defer close(left)
			r, _ := http.NewRequestWithContext(ctx, "POST", f.http.URL+completionsPath, strings.NewReader(body))
			resp, err := http.DefaultClient.Do(r)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the client was left by the server: %v", err)
			}
		}()
		eventually(t, "it runs", func() bool { s := f.engine.Stats(); return s.Running > 0 && s.Cache.Used > 0 })
		cancel()
		<-left
		eventually(t, "its pages are free", func() bool { s := f.engine.Stats(); return s.Running+s.Waiting+s.Cache.Used == 0 })
		eventually(t, "it is counted", func() bool {
			return testutil.ToFloat64(f.Server.metrics.disconnects) == float64(i+1)
		})
		eventually(t, "it is logged", func() bool { return len(f.log.lines(t, "request")) == i+1 })
		if line := f.log.lines(t, "request")[i]; line["status"] != 499.0 || line["error"] != "client_closed" || line["finish_reason"] != "abort" {
			t.Errorf("log: %v", line)
		}
	}
}

// TestQueueFull: 429 with advice, and everything goes on.
func TestQueueFull(t *testing.T) {
	g, observe := gated()
	o := exact()
	o.MaxRunning, o.MaxQueued = 1, 1
	f := start(t, Config{}, o, observe)
	defer g.lift()
	answers := make(chan answered)
	body := `{"prompt":"Hello","max_tokens":3,"rid":"%s"}`
	go func() { answers <- f.ask(t, completionsPath, fmt.Sprintf(body, "one")) }()
	eventually(t, "the first runs", func() bool { return g.taken.Load() > 0 })
	go func() { answers <- f.ask(t, completionsPath, fmt.Sprintf(body, "two")) }()
	eventually(t, "the second waits", func() bool { return f.engine.Stats().Queued == 1 })
	status, header, text := f.do(t, "POST", completionsPath, fmt.Sprintf(body, "three"))
	if seconds, err := strconv.Atoi(header.Get("Retry-After")); status != 429 || err != nil || seconds < 1 || seconds > 60 || !strings.Contains(text, `"rate_limit_error"`) {
		t.Errorf("%d, Retry-After %q: %s", status, header.Get("Retry-After"), text)
	}
	// A second prompt that finds the queue full takes the first back.
	if status, _, text = f.do(t, "POST", completionsPath, `{"prompt":["a","b"],"max_tokens":1}`); status != 429 {
		t.Errorf("%d: %s", status, text)
	}
	g.lift()
	for range 2 {
		if a := <-answers; a.Usage.Completion == 0 {
			t.Errorf("%+v", a)
		}
	}
	f.ask(t, completionsPath, `{"prompt":["a"],"max_tokens":1}`)
}

// TestRequestIDs: a live request's rid cannot be used again; X-Request-Id is
// given back, if it can be.
func TestRequestIDs(t *testing.T) {
	g, observe := gated()
	f := start(t, Config{}, exact(), observe)
	defer g.lift()
	done := make(chan answered)
	go func() { done <- f.ask(t, completionsPath, `{"prompt":"Hello","max_tokens":3,"request_id":"mine"}`) }()
	eventually(t, "it runs", func() bool { return g.taken.Load() > 0 })
	status, header, text := f.do(t, "POST", completionsPath, `{"prompt":"Hello","rid":"mine"}`, "X-Request-Id", "abc-1")
	if status != 409 || !strings.Contains(text, `"rid_in_use"`) || header.Get("X-Request-Id") != "abc-1" {
		t.Errorf("%d, X-Request-Id %q: %s", status, header.Get("X-Request-Id"), text)
	}
	g.lift()
	<-done
	for _, bad := range []string{"", strings.Repeat("x", 200), "with space"} {
		if _, header, _ := f.do(t, "GET", "/health", "", "X-Request-Id", bad); header.Get("X-Request-Id") == bad {
			t.Errorf("X-Request-Id %q came back", bad)
		}
	}
}

// TestPanic: a panic is an error of its own request; the server goes on.
func TestPanic(t *testing.T) {
	f := start(t, Config{}, exact(), nil)
	for _, begun := range []bool{false, true} {
		broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			x := f.newExchange(w, r)
			defer f.finish(x)
			if begun {
				w := &eventWriter{x: x}
				w.send("begun")
			}
			panic("secret detail")
		}))
		resp, err := http.Get(broken.URL)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !begun && (err != nil || resp.StatusCode != 500 || !strings.Contains(string(body), `"internal"`) || strings.Contains(string(body), "secret")) {
			t.Errorf("%d %s, %v", resp.StatusCode, body, err)
		}
		if begun && err == nil {
			t.Errorf("an answer that was cut off looks complete: %s", body)
		}
		broken.Close()
	}
	if lines := f.log.lines(t, "panic"); len(lines) != 2 || lines[0]["panic"] != "secret detail" {
		t.Errorf("log: %v", lines)
	}
	f.ask(t, completionsPath, `{"prompt":"x","max_tokens":1}`)
}

// narrow gives connections small buffers, so that a client that does not read is
// noticed.
type narrow struct{ net.Listener }

func (n narrow) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
	}
	return c, err
}

// TestSlowReader: a client that does not read holds nobody up, and is given up
// when it takes too long.
func TestSlowReader(t *testing.T) {
	f := start(t, Config{WriteTimeout: 100 * time.Millisecond}, exact(), nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Server{Handler: f.Handler()}
	go h.Serve(narrow{l})
	defer h.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	body := `{"prompt":"Hello","max_tokens":1500,"ignore_eos":true,"stream":true,"logprobs":20}`
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", completionsPath, len(body), body)
	eventually(t, "it runs", func() bool { return f.engine.Stats().Running == 1 })
	f.ask(t, completionsPath, `{"prompt":"x","max_tokens":8}`) // is not held up
	eventually(t, "it is given up", func() bool { s := f.engine.Stats(); return s.Running == 0 && s.Finished[engine.FinishAbort] == 1 })
}

// TestKeepAliveAfterStream: the deadlines of a stream do not outlive it.
func TestKeepAliveAfterStream(t *testing.T) {
	f := start(t, Config{WriteTimeout: 300 * time.Millisecond, BodyTimeout: 300 * time.Millisecond}, exact(), nil)
	c, err := net.Dial("tcp", f.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := `{"prompt":"Hello","max_tokens":2,"stream":true}`
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", completionsPath, len(body), body)
	buffer := make([]byte, 64<<10)
	for range 2 {
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		got := ""
		for !strings.HasSuffix(got, "0\r\n\r\n") {
			n, err := c.Read(buffer)
			if err != nil {
				t.Fatalf("%v behind %q", err, got)
			}
			got += string(buffer[:n])
		}
		time.Sleep(400 * time.Millisecond)
	}
}

// TestSlowBody: 408, and the connection is closed.
func TestSlowBody(t *testing.T) {
	f := start(t, Config{BodyTimeout: 50 * time.Millisecond}, exact(), nil)
	for body, want := range map[string]string{
		"Content-Length: 100\r\n\r\n{\"prompt\":":                                "408 Request Timeout",
		"Transfer-Encoding: chunked\r\n\r\n5\r\n{\"pro\r\nzz\r\n":                "400 Bad Request",
		"Content-Length: 999999999999\r\n\r\n":                                   "413 Request Entity Too Large",
		"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}":                    "100 Continue",
		"Content-Length: 9\r\nContent-Type: text/html\r\n\r\n<!doctype":          "415 Unsupported Media Type",
		"Content-Length: 1\r\nContent-Encoding: gzip\r\n\r\nx":                   "415 Unsupported Media Type",
		"X-Big: " + strings.Repeat("x", 2<<20) + "\r\nContent-Length: 0\r\n\r\n": "431 Request Header Fields Too Large",
	} {
		c, err := net.Dial("tcp", f.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\n%s", completionsPath, body)
		buffer := make([]byte, 4096)
		n, err := c.Read(buffer)
		if got := string(buffer[:n]); err != nil || !strings.HasPrefix(got, "HTTP/1.1 "+want) {
			t.Errorf("%.60q: %q, %v, want %s", body, got, err, want)
		}
		c.Close()
	}
}

// TestKeys: what is covered and what is open, in every form of header.
func TestKeys(t *testing.T) {
	keys, err := ParseKeys("# staff\nann:secret-a\n\nsecret-b\n")
	if err != nil {
		t.Fatal(err)
	}
	f := start(t, Config{Keys: keys}, exact(), nil)
	for _, c := range []struct {
		header, value string
		status        int
		name          any
	}{
		{"Authorization", "Bearer secret-a", 200, "ann"}, {"Authorization", "bearer  secret-b", 200, "line-4"}, {"Authorization", "secret-a", 200, "ann"},
		{"X-Api-Key", "secret-b", 200, "line-4"}, {"Authorization", "Bearer", 401, nil}, {"Authorization", "Bearer secret", 401, nil},
		{"Authorization", "Bearer secret-a2", 401, nil}, {"X-Api-Key", "", 401, nil}, {"Authorization", "Basic secret-a", 401, nil}, {"Authorization", "Bearer ann:secret-a", 401, nil},
	} {
		before := len(f.log.lines(t, "request"))
		status, header, body := f.do(t, "POST", completionsPath, `{"prompt":"x","max_tokens":1}`, c.header, c.value)
		if status != c.status || status == 401 && (header.Get("WWW-Authenticate") == "" || !strings.Contains(body, `"invalid_api_key"`)) {
			t.Errorf("%s %q: %d %s", c.header, c.value, status, body)
		}
		eventually(t, "the log line", func() bool { return len(f.log.lines(t, "request")) > before })
		if line := f.log.lines(t, "request")[before]; line["key_name"] != c.name {
			t.Errorf("%s %q: logged as %v", c.header, c.value, line["key_name"])
		}
	}
	for path, want := range map[string]int{"/health": 200, "/ping": 200, "/livez": 200, "/readyz": 200, "/metrics": 401, "/v1/models": 401, "/v1/models/demo": 401, "/version": 401} {
		if status, _, _ := f.do(t, "GET", path, ""); status != want {
			t.Errorf("%s without a key: %d, want %d", path, status, want)
		}
	}
	if strings.Contains(f.log.String(), "secret") {
		t.Error("a key is in the log")
	}
	f.SetKeys([]Key{{"new", "other"}})
	if status, _, _ := f.do(t, "GET", "/v1/models", "", "Authorization", "Bearer secret-a"); status != 401 {
		t.Errorf("an old key: %d", status)
	}
	f.SetKeys(nil)
	if status, _, _ := f.do(t, "GET", "/v1/models", "", "Authorization", "Bearer "); status != 200 {
		t.Errorf("an empty Bearer where no key is needed: %d", status)
	}
	if _, err := ParseKeys("name:"); err == nil {
		t.Error("a name without a key is taken")
	}
}

// TestOrigins: other origins' pages may call only if named.
func TestOrigins(t *testing.T) {
	f := start(t, Config{CORSOrigins: []string{"https://ui.example"}}, exact(), nil)
	for origin, want := range map[string]string{"https://ui.example": "https://ui.example", "https://other.example": "", "": ""} {
		status, header, _ := f.do(t, "OPTIONS", chatPath, "", "Origin", origin, "Access-Control-Request-Method", "POST")
		if got := header.Get("Access-Control-Allow-Origin"); got != want || (status == 204) != (want != "") {
			t.Errorf("origin %q: %d, allowed %q", origin, status, got)
		}
	}
}
