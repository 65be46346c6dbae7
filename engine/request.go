package engine

import (
	"time"

	"latent/pathway"
	"latent/sample"
)

// Request asks for N continuations of one prompt.
type Request struct {
	ID     string // unique among live requests; made up if empty
	Prompt []int32
	N      int // choices, 0 means 1; they share the prompt's cache pages
	Params sample.Params
	// MaxTokens bounds the generated tokens of each choice; 0 prefills the
	// prompt and generates nothing.
	MaxTokens int
	// Stop strings end a choice when its text contains one of them.
	Stop           []string
	IncludeStop    bool // keep the stop string in the text
	IgnoreEOS      bool // do not stop at the model's stop ids
	SkipSpecial    bool // leave special tokens out of the text
	PromptLogprobs bool // log probabilities of the prompt's tokens (echo)
	CacheSalt      string
	Policy         pathway.Policy // overrides the planner's policy when not zero
	Explain        bool           // record the decisions for this request
}

// FinishReason says why a choice ended.
type FinishReason string

// Finish reasons.
const (
	NotFinished  FinishReason = ""
	FinishStop   FinishReason = "stop"
	FinishLength FinishReason = "length"
	FinishAbort  FinishReason = "abort"
)

// Event is news of one choice of a request.
type Event struct {
	Choice int
	// Text is the new text: whole UTF-8 code points, with text that may begin a
	// stop string held back. It may be empty while tokens are not.
	Text   string
	Tokens []Token // the tokens generated since the last event
	Finish FinishReason
	// MatchedStop is the stop string (string) or stop token (int) that ended
	// the choice, or nil.
	MatchedStop any
	// Prompt is set on the first event of choice 0 when PromptLogprobs was asked for: one
	// entry per prompt token, the first without log probability.
	Prompt []Token
	Usage  Usage
	Err    error // set with FinishAbort: why
}

// Token is one token with its log probabilities, if asked for.
type Token struct {
	ID      int32
	Logprob float32
	Top     []sample.TokenLogprob
	HasProb bool
}

// Usage counts tokens and times of a request so far.
type Usage struct {
	Prompt, Cached, Completion int
	Queue, Prefill             time.Duration
	// Rows counts query rows by pathway, over all steps of the request.
	Rows [pathway.Count]int
	// IndexerRows counts rows for which the indexer scored and selected.
	IndexerRows int
	Decisions   []Decision // if Explain
}

// Decision is one segment planned for the request.
type Decision struct {
	Phase        pathway.Phase
	From, To     int // positions [From, To) in the sequence
	Pathway      pathway.Pathway
	Reason       pathway.Reason
	PredictedUS  float64
	Alternatives [pathway.Count]float64
	Excluded     [pathway.Count]pathway.Exclusion
}
