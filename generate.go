package latent

import (
	"context"
	"errors"
	"iter"

	"latent/chat"
	"latent/engine"
	"latent/pathway"
	"latent/sample"
)

// Request asks for an answer to a conversation, a text or tokens: set exactly
// one of Messages, Prompt and Tokens.
type Request struct {
	// Messages is a conversation, encoded as the model was trained on.
	Messages []chat.Message
	// Tools the model may call, ResponseFormat a schema it is shown; see chat.
	Tools          []chat.Tool
	ResponseFormat []byte
	Thinking       bool // let the model reason before it answers
	ContinueFinal  bool // go on with the last message, which is the assistant's
	// NoGenerationPrompt ends the conversation as it stands, without the mark
	// after which the assistant speaks.
	NoGenerationPrompt bool

	// Prompt is a text to continue; special tokens in it are parsed.
	Prompt string
	// Tokens are the ids to continue.
	Tokens []int32

	// Sampling is how tokens are chosen; nil means Engine.Sampling, the
	// checkpoint's defaults.
	Sampling *sample.Params
	// MaxTokens bounds the answer; 0 means what fits the context.
	MaxTokens int
	// Stop strings end the answer; they are not part of it.
	Stop []string
	// N asks for several answers, 0 means 1. Delta.Choice tells them apart.
	N int
	// Policy overrides the attention policy for this request.
	Policy pathway.Policy
	// Explain asks for the attention decisions in Delta.Usage.
	Explain bool
}

// Delta is a piece of an answer.
type Delta struct {
	Choice int
	// Text is new text of the answer: of its content, for a conversation.
	Text string
	// Reasoning is new text from before the answer.
	Reasoning string
	// ToolCalls are parts of calls; see chat.ToolCallDelta.
	ToolCalls []chat.ToolCallDelta
	Tokens    []engine.Token
	// ReasoningTokens is how many of Tokens are reasoning, the mark at its end
	// not counted; 0 if the tokenizer has no token for that mark.
	ReasoningTokens int
	// Finish is set on the last delta of a choice: "stop", "length",
	// "tool_calls" or "abort".
	Finish string
	// MatchedStop is the stop string or token id that ended the choice, if any.
	MatchedStop any
	Usage       engine.Usage
}

// FinishToolCalls ends a choice that calls tools.
const FinishToolCalls = "tool_calls"

// ErrNoInput says that a request has nothing to answer.
var ErrNoInput = errors.New("request: set one of Messages, Prompt and Tokens")

// Generate answers a request. It yields what has become certain as it comes;
// an error ends the iteration. Breaking off, or ending ctx, cancels the request.
func (e *Engine) Generate(ctx context.Context, req Request) iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) {
		prompt, parser, err := e.Encode(req)
		if err != nil {
			yield(Delta{}, err)
			return
		}
		params := e.Sampling()
		if req.Sampling != nil {
			params = e.limitVocabulary(*req.Sampling)
		}
		limit := req.MaxTokens
		if limit == 0 {
			limit = -1 // to the engine 0 is no token, and this what fits
		}
		stream, err := e.engine.Submit(ctx, &engine.Request{
			Prompt: prompt, N: req.N, Params: params, MaxTokens: limit, Stop: req.Stop,
			SkipSpecial: true, Policy: req.Policy, Explain: req.Explain,
		})
		if err != nil {
			yield(Delta{}, err)
			return
		}
		defer stream.Cancel()
		choices := make([]*ChoiceParser, max(1, req.N))
		for i := range choices {
			choices[i] = parser()
		}
		for event := range stream.All() {
			d := choices[event.Choice].Parse(event)
			if !yield(d, event.Err) || event.Err != nil {
				return
			}
		}
	}
}

// ChoiceParser turns the engine's events of one choice into deltas: for a
// conversation it tells reasoning, content and tool calls apart.
type ChoiceParser struct {
	chat      *chat.Parser // nil for raw completions
	reasoning bool         // tokens are reasoning, until thinkEnd
	thinkEnd  int32
}

// Parse returns what the event adds to the answer.
func (p *ChoiceParser) Parse(e engine.Event) Delta {
	d := Delta{Choice: e.Choice, Tokens: e.Tokens, Finish: string(e.Finish), MatchedStop: e.MatchedStop, Usage: e.Usage}
	if p.chat == nil {
		d.Text = e.Text
		return d
	}
	for i := 0; i < len(e.Tokens) && p.reasoning; i++ {
		if p.reasoning = e.Tokens[i].ID != p.thinkEnd; p.reasoning {
			d.ReasoningTokens++
		}
	}
	d.add(p.chat.Push(e.Text))
	if e.Finish != engine.NotFinished {
		d.add(p.chat.Finish(e.Finish != engine.FinishStop))
		if e.Finish == engine.FinishStop && p.chat.ToolCalls() > 0 {
			d.Finish = FinishToolCalls
		}
	}
	return d
}

func (d *Delta) add(parts []chat.Delta) {
	for _, part := range parts {
		d.Text += part.Content
		d.Reasoning += part.Reasoning
		if part.ToolCall != nil {
			d.ToolCalls = append(d.ToolCalls, *part.ToolCall)
		}
	}
}
