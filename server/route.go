package server

import (
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
)

// otherRoute is the metrics' label of paths that do not exist.
const otherRoute = "other"

// route is a path with what answers it.
type route struct {
	path    string // as net/http.ServeMux has it
	methods []string
	open    bool // answered without an API key
	quiet   bool // not logged at info: probes and scrapes
	handle  func(*Server, *exchange)
}

// routes lists every path.
func routes() []route {
	get, post := []string{http.MethodGet, http.MethodHead}, []string{http.MethodPost}
	return []route{
		{path: "/v1/chat/completions", methods: post, handle: (*Server).handleChat},
		{path: "/v1/completions", methods: post, handle: (*Server).handleCompletions},
		{path: "/v1/models", methods: get, handle: (*Server).handleModels},
		{path: "/v1/models/{id...}", methods: get, handle: (*Server).handleModel},
		{path: "/health", methods: get, open: true, quiet: true, handle: (*Server).handleReady},
		{path: "/ping", methods: get, open: true, quiet: true, handle: (*Server).handleReady},
		{path: "/readyz", methods: get, open: true, quiet: true, handle: (*Server).handleReady},
		{path: "/livez", methods: get, open: true, quiet: true, handle: (*Server).handleAlive},
		{path: "/version", methods: get, quiet: true, handle: (*Server).handleVersion},
		{path: "/metrics", methods: get, quiet: true, handle: (*Server).handleMetrics},
	}
}

// label is the path as metrics name it.
func (r *route) label() string { return strings.TrimSuffix(r.path, "/{id...}") }

// Handler returns what answers all requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes() {
		mux.HandleFunc(r.path, func(w http.ResponseWriter, req *http.Request) {
			x := w.(*exchange)
			x.r = req // with the path's values
			s.dispatch(x, &r)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		x := w.(*exchange)
		x.fail(&failure{
			status: http.StatusNotFound, kind: kindInvalid, code: "not_found",
			message: fmt.Sprintf("there is nothing at %s", headerText(req.URL.Path)),
		})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := s.newExchange(w, r)
		defer s.finish(x)
		if s.allowOrigin(x) {
			return
		}
		mux.ServeHTTP(x, r)
	})
}

// dispatch checks method and key.
func (s *Server) dispatch(x *exchange, r *route) {
	x.route = r.label()
	x.record.quiet = r.quiet
	if !slices.Contains(r.methods, x.r.Method) {
		x.Header().Set("Allow", strings.Join(r.methods, ", "))
		x.fail(&failure{
			status: http.StatusMethodNotAllowed, kind: kindInvalid, code: "method_not_allowed",
			message: fmt.Sprintf("%s takes %s", r.path, strings.Join(r.methods, " or ")),
		})
		return
	}
	if !r.open {
		if f := s.authenticate(x); f != nil {
			x.Header().Set("WWW-Authenticate", "Bearer")
			x.fail(f)
			return
		}
	}
	r.handle(s, x)
}

// finish ends an exchange: a panic becomes an error of this request alone, and
// log and metrics learn of it.
func (s *Server) finish(x *exchange) {
	broken := recover()
	if broken != nil && broken != http.ErrAbortHandler {
		s.log.Error("panic", "request_id", x.id, "path", x.route, "panic", fmt.Sprint(broken), "stack", string(debug.Stack()))
		if x.sent {
			broken = http.ErrAbortHandler // the client sees that the answer is cut off
		} else {
			broken = nil
			x.fail(internalFailure())
		}
		x.status = http.StatusInternalServerError
	}
	x.clearDeadlines()
	s.metrics.exchange(x)
	s.logExchange(x)
	if broken != nil {
		panic(broken)
	}
}

// allowOrigin answers browsers' questions about other origins and tells whether
// that was all.
func (s *Server) allowOrigin(x *exchange) bool {
	origin := x.r.Header.Get("Origin")
	if origin == "" || len(s.config.CORSOrigins) == 0 {
		return false
	}
	h := x.Header()
	h.Add("Vary", "Origin")
	any := slices.Contains(s.config.CORSOrigins, "*")
	if !any && !slices.Contains(s.config.CORSOrigins, origin) {
		return false
	}
	if any {
		origin = "*"
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, X-Latent-Ignored, Retry-After")
	if x.r.Method != http.MethodOptions || x.r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Api-Key, X-Request-Id")
	h.Set("Access-Control-Max-Age", "600")
	x.WriteHeader(http.StatusNoContent)
	return true
}
