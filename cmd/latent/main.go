// Command latent serves and studies models with multi-head latent attention
// and DeepSeek sparse attention.
//
//	latent serve            an OpenAI-compatible server on port 30000
//	latent generate PROMPT  an answer on the terminal
//	latent explain          which attention pathways a step would take, and why
//	latent calibrate        measure what attention costs on this machine
//	latent inspect ...      configurations, weights, tokens, logits
//
// Without --model every command uses the embedded demo model.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"latent/checkpoint"
)

// commands is the command line.
type commands struct {
	Serve     serveCommand     `cmd:"" help:"Serve the model over an OpenAI-compatible HTTP API."`
	Generate  generateCommand  `cmd:"" help:"Answer one prompt on the terminal."`
	Explain   explainCommand   `cmd:"" help:"Show which attention pathways a step would take, what each would cost, and why."`
	Calibrate calibrateCommand `cmd:"" help:"Measure what attention costs on this machine, for the planner."`
	Inspect   inspectCommand   `cmd:"" help:"Look into configurations, weights, tokens and logits."`
}

// Exit codes.
const (
	exitConfig     = 1
	exitUsage      = 2
	exitCheckpoint = 4
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its surroundings passed in.
func run(args []string, stdin *os.File, stdout, stderr *os.File) int {
	var cli commands
	exit := -1
	parser, err := kong.New(&cli,
		kong.Name("latent"),
		kong.Description("An inference engine for models with multi-head latent attention and DeepSeek sparse attention.\n\n"+
			"Without --model, commands use the embedded demo model: it can add small numbers, solve short word problems, follow "+
			"variables, and find codes hidden in a long text."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exit = code }),
		kong.DefaultEnvars("LATENT"),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}),
		kong.UsageOnError(),
	)
	if err != nil {
		panic(err) // the command line's own definition is wrong
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(args)
	if exit >= 0 { // --help was answered
		return exit
	}
	if err != nil {
		fmt.Fprintf(stderr, "latent: %v\nlatent: see `latent --help`\n", err)
		return exitUsage
	}
	// The first signal cancels; a second one ends the process as usual.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	kctx.BindTo(ctx, (*context.Context)(nil))
	kctx.Bind(&terminal{in: stdin, out: stdout, err: stderr})
	if err := kctx.Run(); err != nil {
		fmt.Fprintf(stderr, "latent: %v\n", err)
		return exitCode(err)
	}
	return 0
}

func exitCode(err error) int {
	var code *exitError
	if errors.As(err, &code) {
		return code.code
	}
	var config *checkpoint.ConfigError
	if errors.As(err, &config) {
		return exitCheckpoint
	}
	return exitConfig
}

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// terminal is where a command reads and writes.
type terminal struct{ in, out, err *os.File }
