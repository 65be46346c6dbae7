package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// Limits of connections.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 120 * time.Second
	headerBytes   = 64 << 10
	// farewell is how long requests that were cut off may take to say so.
	farewell = 5 * time.Second
)

// Serve answers requests on the listeners, which it closes, until ctx is done;
// then it drains: it is not ready any more, takes new work for DrainDelay, lets
// requests end within DrainTimeout, and cuts off the rest, each with an error to
// its client. Serve returns nil when it has drained. A server serves once.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	h := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // clients that break connections
	}
	group, failed := errgroup.WithContext(ctx)
	for _, l := range listeners {
		group.Go(func() error {
			if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	stopLoad := s.logLoad()
	<-failed.Done() // the order to stop, or a listener that broke
	s.drain(h)
	stopLoad()
	return group.Wait()
}

// drain ends the server's work. Probes are answered until the end.
func (s *Server) drain(h *http.Server) {
	h.SetKeepAlivesEnabled(false)
	worked := s.advance(leaving) == ready
	if worked {
		s.log.Info("draining", "delay", s.config.DrainDelay.String(), "timeout", s.config.DrainTimeout.String())
		time.Sleep(s.config.DrainDelay)
	}
	s.advance(draining)
	timeout := time.NewTimer(s.config.DrainTimeout)
	defer timeout.Stop()
	select {
	case <-s.quiet():
	case <-timeout.C:
		s.log.Warn("cutting off requests that did not end in time", "timeout", s.config.DrainTimeout.String())
	}
	s.cutOff(errShutdown)
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	// What is left then are connections whose clients do not read.
	if err := h.Shutdown(ctx); err != nil {
		_ = h.Close()
	}
	if worked {
		s.log.Info("drained")
	}
}
