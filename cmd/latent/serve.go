package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"latent"
	"latent/demo"
	"latent/server"
)

// serveCommand serves the model over HTTP.
type serveCommand struct {
	Host            string   `help:"Address to listen on." default:"127.0.0.1" group:"Server"`
	Port            uint16   `help:"Port to listen on; 0 takes a free one." default:"30000" group:"Server"`
	ServedModelName []string `help:"Names of the model on the wire, the first in answers that name none. Default: its folder's name." placeholder:"NAME" group:"Server"`
	APIKey          []string `name:"api-key" help:"API key that clients must send; may be given several times. Default: none needed." sep:"none" placeholder:"KEY" group:"Server"`
	APIKeyFile      string   `name:"api-key-file" help:"File of API keys, one a line, name:key to name it in the log. Read again on SIGHUP." placeholder:"FILE" group:"Server"`
	CORSOrigin      []string `name:"cors-origin" help:"Origins whose pages may call, * for all. Default: none." placeholder:"ORIGIN" group:"Server"`
	MetricsCompat   []string `help:"Export metrics also under these engines' names: vllm, sglang." enum:"vllm,sglang,none" default:"vllm" group:"Server"`
	MaxRequestBytes int64    `help:"Bound on a request's body; lists of token ids may take four times as much." default:"16777216" group:"Server"`
	DrainDelay      duration `help:"How long to go on taking requests after the first SIGTERM or SIGINT, while not ready." default:"5s" group:"Server"`
	DrainTimeout    duration `help:"How long running requests may take to end after that." default:"120s" group:"Server"`
	LogFormat       string   `help:"text or json; auto is text on a terminal." enum:"auto,text,json" default:"auto" group:"Server"`
	LogLevel        string   `help:"debug, info, warn or error." enum:"debug,info,warn,error" default:"info" group:"Server"`

	MaxQueuedRequests  int    `help:"Bound on requests that wait; more get status 429. Default: 2048." placeholder:"N" group:"Requests"`
	DefaultMaxTokens   int    `help:"Bound on chat answers whose request names none. Default: what fits the context." placeholder:"N" group:"Requests"`
	SamplingDefaults   string `help:"Parameters that a request leaves open: model takes the checkpoint's, openai those of OpenAI's API." enum:"model,openai" default:"model" group:"Requests"`
	AllowRequestPolicy bool   `help:"Let requests choose their attention policy (latent.policy)." group:"Requests"`

	modelFlags
}

// duration is a time such as 5s; a plain number is seconds.
type duration time.Duration

// UnmarshalText reads a duration.
func (d *duration) UnmarshalText(text []byte) error {
	s := string(text)
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		s += "s"
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration: want one such as 5s or 2m", text)
	}
	*d = duration(v)
	return nil
}

// Run serves until it is told to stop, and then until all requests have ended.
func (c *serveCommand) Run(ctx context.Context, t *terminal) error {
	log := c.logger(t.err)
	keys, err := c.keys()
	if err != nil {
		return err
	}
	names := c.ServedModelName
	if len(names) == 0 {
		names = []string{modelName(c.Model)}
	}
	s, err := server.New(server.Config{
		Names: names, Keys: keys, Logger: log, DefaultMaxTokens: c.DefaultMaxTokens,
		OpenAIDefaults: c.SamplingDefaults == "openai", AllowRequestPolicy: c.AllowRequestPolicy,
		CORSOrigins: c.CORSOrigin, MetricsCompat: c.MetricsCompat, MaxRequestBytes: c.MaxRequestBytes,
		DrainDelay: time.Duration(c.DrainDelay), DrainTimeout: time.Duration(c.DrainTimeout),
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))))
	if err != nil {
		return fmt.Errorf("listen: %w (--host, --port)", err)
	}
	if !loopback(listener.Addr()) && len(keys) == 0 {
		log.Warn("everybody who can reach this address can use the model: consider --api-key", "address", listener.Addr().String())
	}
	defer c.reloadKeys(s, log)()

	// The server answers probes while the model loads, and stops if it cannot be
	// loaded.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	o := c.options(func(line string) { log.Info(line) })
	o.MaxQueued = c.MaxQueuedRequests
	o.Observer = s.Observer()
	e, err := latent.Open(ctx, o)
	if err != nil {
		s.Fail(err)
		asked := ctx.Err() != nil
		stop()
		err = errors.Join(err, <-served)
		if asked { // to stop, while loading
			return nil
		}
		return err
	}
	e.LogStart(log)
	s.Attach(e)
	c.announce(t, log, listener.Addr(), names, len(keys) > 0)
	err = <-served
	// Nothing runs any more, unless a step is stuck.
	shutdown, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	return errors.Join(err, e.Shutdown(shutdown))
}

// shutdownTimeout bounds the wait for a step in progress.
const shutdownTimeout = 30 * time.Second

// modelName is what a model is called on the wire: its folder's name.
func modelName(path string) string {
	if path == "" {
		return demo.Name
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return filepath.Base(path)
}

func (c *serveCommand) logger(w *os.File) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic(err) // the flag's values are levels
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "text" || c.LogFormat == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// keys collects the API keys of flags and file.
func (c *serveCommand) keys() ([]server.Key, error) {
	var keys []server.Key
	for i, k := range c.APIKey {
		if k != "" {
			keys = append(keys, server.Key{Name: fmt.Sprintf("key-%d", i+1), Key: k})
		}
	}
	if c.APIKeyFile == "" {
		return keys, nil
	}
	text, err := os.ReadFile(c.APIKeyFile)
	if err != nil {
		return nil, fmt.Errorf("--api-key-file: %w", err)
	}
	more, err := server.ParseKeys(string(text))
	if err == nil && len(more) == 0 {
		err = errors.New("holds no keys")
	}
	if err != nil {
		return nil, fmt.Errorf("--api-key-file %s: %w", c.APIKeyFile, err)
	}
	return append(keys, more...), nil
}

// reloadKeys reads the keys again on SIGHUP, until stop is called.
func (c *serveCommand) reloadKeys(s *server.Server, log *slog.Logger) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-hangups:
			}
			keys, err := c.keys()
			if err != nil {
				log.Error("API keys stay as they were", "error", err.Error())
				continue
			}
			s.SetKeys(keys)
			log.Info("API keys were read again", "keys", len(keys))
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(done)
	}
}

// announce says what is served where, and to a person how to try it.
func (c *serveCommand) announce(t *terminal, log *slog.Logger, addr net.Addr, names []string, keyed bool) {
	base := baseURL(addr)
	log.Info("ready", "url", base.String(), "names", names, "api_key", keyed)
	if !isTerminal(t.err) {
		return
	}
	header := ""
	if keyed {
		header = ` -H "Authorization: Bearer $LATENT_API_KEY"`
	}
	fmt.Fprintf(t.err, "\nTry it:\n  curl %s/v1/chat/completions -H 'Content-Type: application/json'%s \\\n"+
		"    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"What is 12 + 7?\"}]}'\n\nStop it with Ctrl-C.\n", base, header)
}

// baseURL is where a client on this machine finds the server.
func baseURL(addr net.Addr) *url.URL {
	host := addr.String()
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		host = net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
	}
	return &url.URL{Scheme: "http", Host: host}
}

func loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
