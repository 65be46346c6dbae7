package sample

import (
	"fmt"
	"math"
)

// Params say how tokens are chosen. Names and meanings are those of vLLM and
// SGLang. The zero value is not valid; start from [Defaults].
type Params struct {
	// Temperature divides the logits; below 1e-6 the most likely token is taken.
	Temperature float64
	TopP        float64 // keep the most likely tokens up to this mass, (0, 1]
	TopK        int     // keep this many of the most likely tokens; 0 and -1 keep all
	MinP        float64 // keep tokens at least this likely relative to the most likely one

	PresencePenalty   float64 // taken from logits of tokens in the output
	FrequencyPenalty  float64 // taken once for each time a token is in the output
	RepetitionPenalty float64 // divides positive logits of tokens in prompt or output, multiplies negative ones
	LogitBias         map[int32]float64

	// Seed and the position in the output are all that the random choices
	// depend on. Who wants different results from the same prompt, for want of
	// a seed in a request or for several choices, draws different seeds.
	Seed uint64

	// Logprobs is how many of the most likely tokens to report besides the
	// chosen one; -1 reports nothing.
	Logprobs int
	// MinTokens is how many tokens must come before one of StopIDs may.
	MinTokens int
	StopIDs   []int32
	// Vocabulary is the number of token ids that exist; logits of higher ids
	// are padding and take part in nothing. 0 means that all logits are tokens.
	Vocabulary int
}

// Defaults returns parameters for sampling from the model's own distribution.
func Defaults() Params {
	return Params{Temperature: 1, TopP: 1, RepetitionPenalty: 1, Logprobs: -1}
}

// Greedy tells whether the most likely token is taken, without chance.
func (p *Params) Greedy() bool { return p.Temperature < greedyBelow }

// greedyBelow is the temperature below which the most likely token is taken.
const greedyBelow = 1e-6

// Limits of parameters that are not mathematical necessities.
const (
	MaxTemperature = 2
	MaxPenalty     = 2
	MaxLogprobs    = 20
	MaxBiases      = 1024
	MaxBias        = 100
)

// ParamError says that a parameter is out of range.
type ParamError struct {
	Param string // as in requests, such as "top_p"
	Value any
	Want  string
}

func (e *ParamError) Error() string {
	return fmt.Sprintf("%s is %v, want %s", e.Param, e.Value, e.Want)
}

// Validate checks ranges. Errors are of type [ParamError].
func (p *Params) Validate() error {
	for _, f := range []struct {
		name  string
		value float64
		ok    bool // NaN satisfies no comparison
		want  string
	}{
		{"temperature", p.Temperature, 0 <= p.Temperature && p.Temperature <= MaxTemperature, "0 to 2"},
		{"top_p", p.TopP, 0 < p.TopP && p.TopP <= 1, "more than 0, at most 1"},
		{"min_p", p.MinP, 0 <= p.MinP && p.MinP <= 1, "0 to 1"},
		{"presence_penalty", p.PresencePenalty, math.Abs(p.PresencePenalty) <= MaxPenalty, "-2 to 2"},
		{"frequency_penalty", p.FrequencyPenalty, math.Abs(p.FrequencyPenalty) <= MaxPenalty, "-2 to 2"},
		{"repetition_penalty", p.RepetitionPenalty, 0 < p.RepetitionPenalty && p.RepetitionPenalty <= MaxPenalty, "more than 0, at most 2"},
	} {
		if !f.ok {
			return &ParamError{f.name, f.value, f.want}
		}
	}
	switch {
	case p.TopK < -1:
		return &ParamError{"top_k", p.TopK, "at least 1, or -1 or 0 for all tokens"}
	case p.Logprobs < -1 || p.Logprobs > MaxLogprobs:
		return &ParamError{"top_logprobs", p.Logprobs, "0 to 20"}
	case p.MinTokens < 0:
		return &ParamError{"min_tokens", p.MinTokens, "0 or more"}
	case p.Vocabulary < 0:
		return &ParamError{"vocabulary", p.Vocabulary, "0 or more"}
	case len(p.LogitBias) > MaxBiases:
		return &ParamError{"logit_bias", fmt.Sprintf("%d tokens", len(p.LogitBias)), "at most 1024 tokens"}
	}
	ids := "a token id"
	if p.Vocabulary > 0 {
		ids = fmt.Sprintf("a token id from 0 to %d", p.Vocabulary-1)
	}
	exists := func(id int32) bool { return id >= 0 && (p.Vocabulary == 0 || int(id) < p.Vocabulary) }
	for id, bias := range p.LogitBias {
		if !exists(id) {
			return &ParamError{"logit_bias", fmt.Sprintf("for token %d", id), ids}
		}
		if !(math.Abs(bias) <= MaxBias) {
			return &ParamError{"logit_bias", fmt.Sprintf("%v for token %d", bias, id), "-100 to 100"}
		}
	}
	for _, id := range p.StopIDs {
		if !exists(id) {
			return &ParamError{"stop_token_ids", id, ids}
		}
	}
	return nil
}
