package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"latent"
	"latent/engine"
)

// Config says what a server answers, and within which bounds.
type Config struct {
	// Engine answers the requests. Nil: the server says that it is loading,
	// until [Server.Attach].
	Engine *latent.Engine
	// Names are what the model is called on the wire, the first in answers that
	// name none. Empty: the engine's name.
	Names []string
	// Keys are the API keys; none: everybody is let in.
	Keys   []Key
	Logger *slog.Logger // nil: no log

	// DefaultMaxTokens bounds answers of chat requests that name no bound; 0:
	// what fits the context.
	DefaultMaxTokens int
	// OpenAIDefaults: parameters that a request leaves open are OpenAI's
	// (temperature 1, top_p 1, ...), not the checkpoint's.
	OpenAIDefaults bool
	// AllowRequestPolicy lets requests choose their attention policy.
	AllowRequestPolicy bool
	// MetricsCompat also exports metrics under the names of other engines:
	// CompatVLLM, CompatSGLang.
	MetricsCompat []string
	// CORSOrigins are the origins whose pages may call, "*" for all.
	CORSOrigins []string

	// MaxRequestBytes bounds a request's body; 0: 16 MiB. Lists of token ids may
	// take four times as much.
	MaxRequestBytes int64
	// BodyTimeout is how long a client may take to send a body; 0: 60 s.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may take to accept an event of a stream,
	// or a response; 0: 30 s.
	WriteTimeout time.Duration
	// DrainDelay is how long new work is still taken after the order to stop,
	// for those who have not heard of it; DrainTimeout how long streams may go
	// on then. 0 is none.
	DrainDelay, DrainTimeout time.Duration
	// LoadInterval is the time between two lines of load in the log; 0: a
	// minute.
	LoadInterval time.Duration
}

// Other engines whose metrics dashboards and gateways look for.
const (
	CompatVLLM   = "vllm"
	CompatSGLang = "sglang"
)

// Server answers HTTP requests with an engine. Its methods may be called from
// any number of goroutines. The engine stays its owner's: the server never
// closes it.
type Server struct {
	config  Config
	names   []string
	log     *slog.Logger
	keys    atomic.Pointer[[]hashedKey]
	metrics *metrics
	started time.Time

	attached atomic.Pointer[attachment]

	// base ends, with the cause errShutdown, when requests that still run are to
	// be cut off.
	base    context.Context
	cutOff  context.CancelCauseFunc
	mu      sync.Mutex
	stage   stage
	loadErr error         // why there will be no engine
	live    int           // requests that generate
	idle    chan struct{} // closed when live is 0, made anew when it grows
}

// attachment is the engine with what is derived from it.
type attachment struct {
	engine      *latent.Engine
	fingerprint string
}

// New returns a server. It holds no resources until [Server.Serve].
func New(c Config) (*Server, error) {
	if len(c.Names) == 0 {
		if c.Engine == nil {
			return nil, errors.New("server: a model that is still to be loaded needs a name")
		}
		c.Names = []string{c.Engine.Name()}
	}
	if slices.Contains(c.Names, "") {
		return nil, errors.New("server: a name of the model is empty")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxRequestBytes == 0 {
		c.MaxRequestBytes = 16 << 20
	}
	if c.BodyTimeout == 0 {
		c.BodyTimeout = bodyTimeout
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = writeTimeout
	}
	if c.LoadInterval == 0 {
		c.LoadInterval = time.Minute
	}
	s := &Server{config: c, names: c.Names, log: c.Logger, started: time.Now(), idle: make(chan struct{})}
	close(s.idle)
	s.base, s.cutOff = context.WithCancelCause(context.Background())
	s.metrics = newMetrics(s)
	s.SetKeys(c.Keys)
	if c.Engine != nil {
		s.Attach(c.Engine)
	}
	return s, nil
}

// Observer returns what counts the engine's steps for the metrics; it belongs
// in latent.Options of the engine that is to be attached.
func (s *Server) Observer() engine.Observer { return s.metrics }

// Attach gives the server its engine, once: from now on it is ready.
func (s *Server) Attach(e *latent.Engine) {
	s.metrics.attention.layers.Store(int64(e.Config().Layers))
	s.attached.Store(&attachment{engine: e, fingerprint: fingerprint(e)})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == loading {
		s.stage = ready
	}
}

// engine returns the engine. Handlers call it behind admit.
func (s *Server) engine() *latent.Engine { return s.attached.Load().engine }

func (s *Server) fingerprint() string { return s.attached.Load().fingerprint }

// serves tells whether a client may call the model by this name.
func (s *Server) serves(name string) bool { return slices.Contains(s.names, name) }

// fingerprint identifies what an answer's numbers depend on: the weights, by
// their names, shapes and sizes, their formats, the build, the device, and the
// attention policy.
func fingerprint(e *latent.Engine) string {
	h := sha256.New()
	c, o := e.Planner().Config(), e.Options()
	fmt.Fprintln(h, version(), e.Name(), o.LoadFormat, o.Seed, o.DType, o.KVCacheDType, e.Device())
	fmt.Fprintln(h, c.Policy, c.Threshold, c.Deterministic, c.AllowApproximate)
	for _, t := range e.Checkpoint().Stored() {
		fmt.Fprintln(h, t.Name, t.DType, t.Shape, t.Bytes)
	}
	return "fp_" + hex.EncodeToString(h.Sum(nil)[:6])
}

// version is that of the build.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// commit is that of the build, if known.
func commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return setting.Value
			}
		}
	}
	return ""
}
