package engine

import (
	"fmt"
	"runtime"

	"latent/device"
	"latent/model"
	"latent/pathway"
)

// Forwarder is the model. It is used by one goroutine.
type Forwarder interface {
	// Forward runs a batch and returns the logits of its LogitRows, row-major
	// [len(LogitRows), vocabulary], valid until the next call.
	Forward(b *model.Batch, trace *model.Trace) ([]float32, error)
}

// Planner plans the attention of a step.
type Planner interface {
	Plan(extents []pathway.Extent, plan *pathway.Plan)
	// CheckPolicy returns an error if an extent cannot ask for the policy.
	CheckPolicy(pathway.Policy) error
}

// Detokenizer turns the tokens of one choice into text.
type Detokenizer interface {
	// Add returns the text that the token completes: whole code points.
	Add(id int32) string
	// Flush returns what is left of an incomplete code point at the end.
	Flush() string
}

// Config says what an engine runs and within which bounds.
type Config struct {
	Model   Forwarder
	Planner Planner
	// Detokenizer makes a choice's detokenizer. Nil: no text, and no stop
	// strings.
	Detokenizer func(skipSpecial bool) Detokenizer

	Vocab      int
	StopIDs    []int32 // the model's own stop tokens (end of text)
	Pages      int     // pages of the model's attention cache
	MaxContext int     // positions that the model can have

	MaxRunning  int // sequences in a step; 0: 64
	ChunkTokens int // prompt tokens computed in a step, of all sequences together; 0: 512
	MaxQueued   int // requests that wait; 0: 2048
	// ProbRows bounds the rows of a step whose logits are computed for the log
	// probabilities of prompts; 0: 256. Prompts that ask for them are computed
	// in chunks of at most that many tokens.
	ProbRows int

	// Observer is told of every step and of every request's end, by the loop,
	// which waits for it; nil: nobody.
	Observer Observer
}

// Defaults of Config.
const (
	defaultMaxRunning  = 64
	defaultChunkTokens = 512
	defaultMaxQueued   = 2048
	defaultProbRows    = 256
)

func (c Config) withDefaults() (Config, error) {
	for _, d := range []struct {
		name  string
		value *int
		zero  int
	}{
		{"MaxRunning", &c.MaxRunning, defaultMaxRunning},
		{"ChunkTokens", &c.ChunkTokens, defaultChunkTokens},
		{"MaxQueued", &c.MaxQueued, defaultMaxQueued},
		{"ProbRows", &c.ProbRows, defaultProbRows},
		{"Vocab", &c.Vocab, 0},
		{"Pages", &c.Pages, 0},
		{"MaxContext", &c.MaxContext, 0},
	} {
		if *d.value == 0 {
			*d.value = d.zero
		}
		if *d.value < 1 {
			return c, fmt.Errorf("engine: %s is %d, want at least 1", d.name, *d.value)
		}
	}
	if c.Model == nil || c.Planner == nil {
		return c, fmt.Errorf("engine: no model or no planner")
	}
	return c, nil
}

// StepTokens returns the most rows that a step can have.
func (c Config) StepTokens() int {
	c, _ = c.withDefaults()
	return c.ChunkTokens + c.MaxRunning
}

// LogitRows returns the most rows of a step whose logits are computed: the last
// of each sequence, and those whose probabilities somebody asked for.
func (c Config) LogitRows() int {
	c, _ = c.withDefaults()
	return min(c.ChunkTokens, c.ProbRows) + c.MaxRunning
}

// limit returns how many tokens a sequence can have. The last one generated is
// never computed, but counts as if it were.
func (c *Config) limit() int { return min(c.MaxContext, c.Pages*device.PageTokens) }

// workers returns over how many goroutines to spread n independent pieces of
// work of the host.
func workers(n int) int { return min(n, runtime.GOMAXPROCS(0)) }
