package server

import (
	"net/http"
	"runtime"
	"time"
)

// stage is how far a server's life has come. Failure is no stage: the engine
// knows of it.
type stage int

const (
	loading  stage = iota // no engine yet
	ready                 // takes work
	leaving               // not ready, but takes work: those who send it have not heard yet
	draining              // takes no work, lets what runs end
)

// stuckAfter is how long a step may take before the engine counts as failed.
const stuckAfter = 60 * time.Second

// health returns why the server is not ready, nil if it is, and whether it is
// beyond recovery.
func (s *Server) health() (why *failure, dead bool) {
	s.mu.Lock()
	at, loadErr := s.stage, s.loadErr
	s.mu.Unlock()
	if loadErr != nil {
		return notReady("device_error", "the model could not be loaded"), true
	}
	if attached := s.attached.Load(); attached != nil {
		stats := attached.engine.Stats()
		switch {
		case stats.Failed != nil:
			return notReady("device_error", "the model failed; this server has to be started anew"), true
		case !stats.StepStart.IsZero() && time.Since(stats.StepStart) > stuckAfter:
			return notReady("device_error", "the engine is stuck in a step"), true
		}
	}
	switch at {
	case loading:
		return notReady("loading", "the model is being loaded"), false
	case leaving, draining:
		return notReady("draining", "the server shuts down"), false
	}
	return nil, false
}

// Fail says that there will be no engine.
func (s *Server) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loadErr = err
}

// admit lets a request for generation in if the server takes work, and reads its
// body of at most limit bytes. If not ok, the request is answered.
func (s *Server) admit(x *exchange, limit int64) (f *fields, ok bool) {
	if why := s.refusal(); why != nil {
		x.fail(why)
		return nil, false
	}
	body, err := x.body(limit, s.config.BodyTimeout)
	if err != nil {
		x.fail(err)
		return nil, false
	}
	if f, err = parseBody(body); err != nil {
		x.fail(err)
		return nil, false
	}
	return f, true
}

// refusal returns why the server takes no work, nil if it does.
func (s *Server) refusal() *failure {
	why, dead := s.health()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == leaving && !dead {
		return nil
	}
	return why
}

// enter counts a request in, unless the server drains; leave counts it out.
func (s *Server) enter() *failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == draining {
		return notReady("draining", "the server shuts down")
	}
	if s.live == 0 {
		s.idle = make(chan struct{})
	}
	s.live++
	return nil
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live--
	if s.live == 0 {
		close(s.idle)
	}
}

// advance moves to a later stage and returns the one before.
func (s *Server) advance(to stage) stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.stage
	s.stage = max(s.stage, to)
	return from
}

// quiet returns a channel that is closed when no request generates.
func (s *Server) quiet() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle
}

// handleReady answers whether requests should be sent here.
func (s *Server) handleReady(x *exchange) {
	if why, _ := s.health(); why != nil {
		x.fail(why)
		return
	}
	x.writeJSON(http.StatusOK, map[string]string{"status": "ok"})
}

// handleAlive answers whether the process should go on.
func (s *Server) handleAlive(x *exchange) {
	if why, dead := s.health(); dead {
		why.status = http.StatusInternalServerError
		x.fail(why)
		return
	}
	x.writeJSON(http.StatusOK, map[string]string{"status": "ok"})
}

func (s *Server) handleVersion(x *exchange) {
	x.writeJSON(http.StatusOK, map[string]string{"version": version(), "commit": commit(), "go": runtime.Version()})
}
