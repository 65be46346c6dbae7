package engine

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"latent/pathway"
	"latent/sample"
)

// Request asks for N continuations of one prompt.
type Request struct {
	ID     string // unique among live requests; made up if empty
	Prompt []int32
	N      int // choices, 0 means 1; they share the prompt's cache pages
	// Params say how tokens are drawn; each choice draws from a seed of its own,
	// derived from Params.Seed, the first from Params.Seed itself. The model's
	// own stop ids need not be among Params.StopIDs. A Vocabulary of 0 is that
	// of the model. Within the first MinTokens tokens, stop strings do not stop
	// either.
	Params sample.Params
	// MaxTokens bounds the generated tokens of each choice; 0 prefills the
	// prompt and generates nothing; a negative number means as many as the
	// context has room for.
	MaxTokens int
	// Stop strings end a choice when its text contains one of them.
	Stop           []string
	IncludeStop    bool // keep the stop string, or the stop token's text, in the text
	IgnoreEOS      bool // do not stop at the model's stop ids
	SkipSpecial    bool // leave special tokens out of the text
	PromptLogprobs bool // log probabilities of the prompt's tokens (echo)
	CacheSalt      string
	Policy         pathway.Policy // overrides the planner's policy when not zero
	Explain        bool           // report the decisions for this request
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
	// MatchedStop is the stop string (string) or stop token (int32) that ended
	// the choice, or nil.
	MatchedStop any
	// Prompt is set on the first event of choice 0 when PromptLogprobs was asked
	// for: one entry per prompt token, the first without log probability.
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

// Usage counts tokens and times of a request, all its choices together, so far.
type Usage struct {
	Prompt, Cached, Completion int
	Queue                      time.Duration // from submission to admission
	Prefill                    time.Duration // from admission to the first token
	// Rows counts query rows by pathway, over all steps of the request.
	Rows [pathway.Count]int
	// IndexerRows counts rows for which the indexer scored and selected.
	IndexerRows int
	// Decisions is set in the last event of the stream, if Explain was asked for.
	Decisions []Decision
}

// Decision is what was planned for a run of a choice's rows. Consecutive
// segments that got the same pathway for the same reason are one decision.
type Decision struct {
	Choice   int
	Phase    pathway.Phase
	From, To int // positions [From, To) in the sequence
	Pathway  pathway.Pathway
	Reason   pathway.Reason
	// PredictedUS is the predicted time in one layer, in microseconds, and
	// Alternatives that of the other pathways, +Inf where one was excluded.
	PredictedUS  float64
	Alternatives [pathway.Count]float64
	Excluded     [pathway.Count]pathway.Exclusion
}

// maxDecisions bounds what is kept of a choice's decisions: the first ones.
const maxDecisions = 1024

// maxChoices bounds N.
const maxChoices = 128

// request is a submitted request in the engine. Only the loop touches it,
// except where Submit makes it.
type request struct {
	Request
	order   int64 // of submission
	choices []*sequence
	live    int // choices that have not ended
	stream  *Stream
	detach  func() bool // from the context

	prefilled bool    // the first choice has computed the prompt
	probs     []Token // of the prompt, as far as known
	probsSent bool

	arrival, admitted, firstToken time.Time

	cached, indexerRows int
	rows                [pathway.Count]int
}

// newRequest checks a request and makes its sequences.
func (e *Engine) newRequest(req *Request) (*request, error) {
	r := &request{Request: *req, arrival: time.Now()}
	r.Prompt = slices.Clone(req.Prompt)
	r.Stop = slices.Clone(req.Stop)
	if r.N == 0 {
		r.N = 1
	}
	if r.Params.Vocabulary == 0 {
		r.Params.Vocabulary = e.cfg.Vocab
	}
	r.Params.LogitBias = maps.Clone(req.Params.LogitBias)
	r.Params.StopIDs = slices.Clone(req.Params.StopIDs)
	if err := e.check(r); err != nil {
		return nil, err
	}
	limit := e.cfg.limit()
	budget := r.MaxTokens
	if budget < 0 {
		budget = max(limit-len(r.Prompt), 1)
	}
	if budget > limit-len(r.Prompt) {
		return nil, &TooLongError{Prompt: len(r.Prompt), MaxTokens: budget, Limit: limit}
	}
	if r.PromptLogprobs {
		r.probs = []Token{{ID: r.Prompt[0]}}
	} else {
		r.probsSent = true
	}
	for i := range r.N {
		r.choices = append(r.choices, e.newSequence(r, i, budget))
	}
	r.live = r.N
	return r, nil
}

func (e *Engine) check(r *request) error {
	switch {
	case len(r.Prompt) == 0:
		return &RequestError{"Prompt", "is empty"}
	case r.N < 1 || r.N > maxChoices:
		return &RequestError{"N", fmt.Sprintf("is %d, want 1 to %d", r.N, maxChoices)}
	case len(r.Stop) > 0 && e.cfg.Detokenizer == nil:
		return &RequestError{"Stop", "stop strings need a detokenizer, the engine has none"}
	case slices.Contains(r.Stop, ""):
		return &RequestError{"Stop", "has an empty string"}
	}
	vocab := r.Params.Vocabulary
	if vocab < 1 || vocab > e.cfg.Vocab {
		return &RequestError{"Params.Vocabulary", fmt.Sprintf("is %d, the model's is %d", vocab, e.cfg.Vocab)}
	}
	for i, id := range r.Prompt {
		if id < 0 || int(id) >= vocab {
			return &RequestError{"Prompt", fmt.Sprintf("token %d is %d, the vocabulary has 0 to %d", i, id, vocab-1)}
		}
	}
	if r.Policy != pathway.PolicyDefault {
		if err := e.cfg.Planner.CheckPolicy(r.Policy); err != nil {
			return &RequestError{"Policy", err.Error()}
		}
	}
	return r.Params.Validate()
}

func (r *request) usage() Usage {
	u := Usage{Prompt: len(r.Prompt), Cached: r.cached, Rows: r.rows, IndexerRows: r.indexerRows}
	for _, s := range r.choices {
		u.Completion += s.sent
		if r.live == 0 && r.Explain {
			u.Decisions = append(u.Decisions, s.decisions...)
		}
	}
	if !r.admitted.IsZero() {
		u.Queue = r.admitted.Sub(r.arrival)
		if !r.firstToken.IsZero() {
			u.Prefill = r.firstToken.Sub(r.admitted)
		}
	}
	return u
}
