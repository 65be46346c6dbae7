package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"latent"
	"latent/engine"
	"latent/sample"
)

// Exit codes. Commands that a signal cut short exit with 128 + its number.
const (
	exitConfig     = 1
	exitUsage      = 2
	exitDevice     = 3
	exitCheckpoint = 4
	exitInternal   = 70
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// exitCode says with which code an error ends the process.
func exitCode(err error) int {
	var own *exitError
	var checkpoint *latent.CheckpointError
	var device *latent.DeviceError
	var failed *engine.FailedError
	var panicked *engine.PanicError
	switch {
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &checkpoint):
		return exitCheckpoint
	case errors.As(err, &device), errors.As(err, &failed):
		return exitDevice
	case errors.As(err, &panicked):
		return exitInternal
	}
	return exitConfig
}

// describe words an error for the command line: by flags, where the Go API
// speaks of fields.
func describe(err error) string {
	var option *latent.OptionError
	var request *engine.RequestError
	var long *engine.TooLongError
	var sampling *sample.ParamError
	switch {
	case errors.As(err, &option) && flagOf(option.Option) != "":
		if option.Value == "" {
			return fmt.Sprintf("%s is missing, want %s", flagOf(option.Option), option.Want)
		}
		return fmt.Sprintf("%s is %s, want %s", flagOf(option.Option), option.Value, option.Want)
	case errors.As(err, &request) && flagOf(request.Field) != "":
		return fmt.Sprintf("%s: %s", flagOf(request.Field), request.Problem)
	case errors.As(err, &sampling):
		return fmt.Sprintf("--%s is %v, want %s", strings.ReplaceAll(sampling.Param, "_", "-"), sampling.Value, sampling.Want)
	case errors.As(err, &long) && long.MaxTokens == 0:
		return fmt.Sprintf("%d tokens do not fit the context of %d tokens", long.Prompt, long.Limit)
	case errors.As(err, &long):
		return fmt.Sprintf("the prompt's %d tokens and an answer of %d do not fit the context of %d tokens: shorten the prompt or lower --max-tokens",
			long.Prompt, long.MaxTokens, long.Limit)
	}
	return err.Error()
}

// interruptedError says which signal ended a command.
type interruptedError struct{ signal os.Signal }

func (e *interruptedError) Error() string { return e.signal.String() }

// untilSignal returns a context that the first SIGINT or SIGTERM cancels, with
// an exitError around an interruptedError as its cause; a second signal ends
// the process as usual. stop undoes it.
func untilSignal() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			code := exitInternal
			if number, ok := s.(syscall.Signal); ok {
				code = 128 + int(number)
			}
			cancel(&exitError{code, &interruptedError{s}})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(context.Canceled)
	}
}
