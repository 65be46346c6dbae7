package server

import (
	"net/http"
	"time"

	"latent"
)

// writeTimeout is how long a client may take to accept an event, unless
// configured.
const writeTimeout = 30 * time.Second

// streamed answers with server-sent events: only data lines, one event each.
// Nothing is sent before the first token, so that an error until then has its
// own status. While a slow client blocks a write, the engine goes on and merges
// what is new into one event.
func (a *answer) streamed() {
	a.s.metrics.streams.Inc()
	defer a.s.metrics.streams.Dec()
	w := &eventWriter{x: a.x}
	defer w.release()
	for c, d := range a.deltas() {
		if f := a.x.failure; f != nil {
			if f.status == statusClientClosed {
				return
			}
			if !w.begun {
				a.x.fail(f)
				return
			}
			// Every choice that is open ends, then the error is told.
			a.each(w, c, d)
			a.endOthers(w, c)
			w.send(f.wire())
			w.done()
			return
		}
		if !a.tells(c, &d) {
			continue
		}
		if !a.each(w, c, d) {
			a.x.failure = &failure{status: statusClientClosed, kind: kindInvalid, code: "client_closed", message: "the client stopped reading"}
			return
		}
	}
	if a.g.includeUsage {
		a.Choices, a.Usage = []any{}, a.usage()
		a.addExtras(false, true)
		w.send(a.envelope)
	}
	w.done()
}

// tells reports whether a delta has something for the client.
func (a *answer) tells(c *choice, d *latent.Delta) bool {
	switch {
	case d.Text != "" || d.Reasoning != "" || len(d.ToolCalls) > 0 || d.Finish != "":
		return true
	case len(d.Tokens) > 0 && (a.g.tokenIDs || a.g.params.Logprobs >= 0):
		return true
	}
	return false
}

// each sends the chunk of one delta.
func (a *answer) each(w *eventWriter, c *choice, d latent.Delta) bool {
	a.Choices = []any{a.form.chunk(c, &d, a.g.tokenIDs)}
	a.Usage = nil
	if a.g.continuousUsage {
		a.Usage = a.usage()
	}
	c.begun = true
	a.addExtras(!w.begun, a.waiting == 0 && !a.g.includeUsage)
	return w.send(a.envelope)
}

// endOthers sends an end for the choices that have none yet, but c.
func (a *answer) endOthers(w *eventWriter, c *choice) {
	for _, other := range a.choices {
		if other != c && !other.ended {
			a.each(w, other, latent.Delta{Finish: "abort"})
		}
	}
}

// eventWriter writes events and keeps the deadline.
type eventWriter struct {
	x     *exchange
	begun bool
	gone  bool // the client, or too slow
}

// send writes one event and tells whether it went through.
func (w *eventWriter) send(v any) bool {
	data, err := marshal(v)
	if err != nil {
		panic(err) // all that is sent are values of this package's own types
	}
	return w.write(data)
}

// done ends the stream.
func (w *eventWriter) done() { w.write([]byte("[DONE]")) }

func (w *eventWriter) write(data []byte) bool {
	if w.gone {
		return false
	}
	if !w.begun {
		w.begun = true
		h := w.x.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no")
		w.x.WriteHeader(http.StatusOK)
	}
	w.x.extendWriteDeadline()
	line := make([]byte, 0, len(data)+8)
	line = append(line, "data: "...)
	line = append(line, data...)
	line = append(line, "\n\n"...)
	_, err := w.x.Write(line)
	if err == nil {
		err = w.x.control.Flush()
	}
	w.gone = err != nil
	return !w.gone
}

// release lets the connection be used for further requests.
func (w *eventWriter) release() { w.x.clearDeadlines() }
