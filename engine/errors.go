package engine

import (
	"errors"
	"fmt"
)

// Errors without details.
var (
	// ErrClosed: the engine is closing or closed and takes no requests.
	ErrClosed = errors.New("engine: closed, no new requests are taken")
	// ErrShutdown ends requests that were not done when the engine closed.
	ErrShutdown = errors.New("engine: cut off by shutdown")
	// ErrCanceled ends requests that were cancelled by Engine.Cancel or
	// Stream.Cancel.
	ErrCanceled = errors.New("engine: request cancelled")
)

// RequestError says which field of a request cannot be.
type RequestError struct {
	Field   string // name of the field of Request
	Problem string
}

func (e *RequestError) Error() string { return fmt.Sprintf("engine: %s: %s", e.Field, e.Problem) }

// TooLongError says that a request does not fit the context.
type TooLongError struct {
	Prompt    int // tokens of the prompt
	MaxTokens int // asked for behind it
	Limit     int // tokens that a sequence can have: Engine.MaxContext
}

func (e *TooLongError) Error() string {
	return fmt.Sprintf("engine: a prompt of %d tokens and %d new ones do not fit the context of %d tokens",
		e.Prompt, e.MaxTokens, e.Limit)
}

// QueueFullError says that too many requests wait.
type QueueFullError struct{ Queued, Limit int }

func (e *QueueFullError) Error() string {
	return fmt.Sprintf("engine: %d requests are waiting, the limit is %d", e.Queued, e.Limit)
}

// InUseError says that a live request has the same ID.
type InUseError struct{ ID string }

func (e *InUseError) Error() string { return fmt.Sprintf("engine: request id %q is in use", e.ID) }

// FailedError says that the model failed in an earlier or the current step. The
// engine takes no more requests; the process has to be started anew.
type FailedError struct{ Err error }

func (e *FailedError) Error() string { return fmt.Sprintf("engine: the model failed: %v", e.Err) }

// Unwrap returns the model's error.
func (e *FailedError) Unwrap() error { return e.Err }

// BusyError says that the prefix cache was not flushed because requests ran.
type BusyError struct{ Running, Waiting int }

func (e *BusyError) Error() string {
	return fmt.Sprintf("engine: busy with %d running and %d waiting sequences", e.Running, e.Waiting)
}

// PanicError ends a request whose own processing panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("engine: internal error: %v", e.Value) }

// Format adds the stack with %+v.
func (e *PanicError) Format(f fmt.State, verb rune) {
	fmt.Fprint(f, e.Error())
	if verb == 'v' && f.Flag('+') {
		fmt.Fprintf(f, "\n%s", e.Stack)
	}
}
