package latent

import (
	"crypto/rand"
	"errors"
	"fmt"

	"latent/chat"
	"latent/checkpoint"
	"latent/token"
)

// Encoder turns requests into tokens: the model's tokenizer and chat encoding.
type Encoder struct {
	tokenizer *token.Tokenizer // nil if the model brings none
	chat      chat.V32
	chatErr   error // why there is no chat encoding
}

// OpenEncoder opens the encoder of the model that the options name, without
// its weights.
func OpenEncoder(opts Options) (*Encoder, error) {
	c, err := OpenCheckpoint(opts)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return newEncoder(c)
}

func newEncoder(c *checkpoint.Checkpoint) (*Encoder, error) {
	if !c.HasTokenizer() {
		return &Encoder{chatErr: errors.New("the model's folder has no tokenizer.json and no tiktoken.model: only requests with token ids can be answered")}, nil
	}
	t, err := token.LoadDir(c.Folder)
	if err != nil {
		return nil, &CheckpointError{fmt.Errorf("model %s: %w", c.Name, err)}
	}
	e := &Encoder{tokenizer: t}
	e.chat, e.chatErr = chat.For(c.Config.ModelType, t.Config().ChatTemplate != "")
	return e, nil
}

// Tokenizer returns the model's tokenizer, or nil if it brings none.
func (e *Encoder) Tokenizer() *token.Tokenizer { return e.tokenizer }

// ChatError returns why conversations cannot be encoded, or nil if they can.
func (e *Encoder) ChatError() error { return e.chatErr }

// Encode turns a request into tokens, and returns what makes a parser for each
// of its choices.
func (e *Encoder) Encode(req Request) (prompt []int32, parser func() *ChoiceParser, err error) {
	raw := func() *ChoiceParser { return &ChoiceParser{} }
	given := 0
	for _, set := range []bool{len(req.Messages) > 0, req.Prompt != "", len(req.Tokens) > 0} {
		if set {
			given++
		}
	}
	if given != 1 {
		return nil, nil, ErrNoInput
	}
	if len(req.Tokens) > 0 {
		return req.Tokens, raw, nil
	}
	if e.tokenizer == nil {
		return nil, nil, e.chatErr
	}
	if req.Prompt != "" {
		return ids(e.tokenizer.WithBOS(e.tokenizer.Encode(req.Prompt))), raw, nil
	}
	if e.chatErr != nil {
		return nil, nil, e.chatErr
	}
	p, err := e.chat.Render(chat.Request{
		Messages: req.Messages, Tools: req.Tools, ResponseFormat: req.ResponseFormat, Thinking: req.Thinking,
		AddGenerationPrompt: !req.ContinueFinal && !req.NoGenerationPrompt, ContinueFinal: req.ContinueFinal,
	})
	if err != nil {
		return nil, nil, err
	}
	spans := make([]token.Span, len(p.Markup))
	for i, s := range p.Markup {
		spans[i] = token.Span{Start: s.From, End: s.To}
	}
	thinkEnd, marked := e.tokenizer.ID("</think>")
	parser = func() *ChoiceParser {
		return &ChoiceParser{
			chat: chat.NewParser(chat.ParserOptions{
				Reasoning: p.Reasoning, Tools: req.Tools, NewID: newCallID, NoToolCalls: len(req.Tools) == 0,
			}),
			reasoning: p.Reasoning && marked, thinkEnd: int32(thinkEnd),
		}
	}
	return ids(e.tokenizer.EncodeSpans(p.Text, spans)), parser, nil
}

func newCallID() string { return "call_" + rand.Text() }

func ids(in []int) []int32 {
	out := make([]int32, len(in))
	for i, id := range in {
		out[i] = int32(id)
	}
	return out
}
