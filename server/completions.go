package server

import (
	"fmt"
	"math"
	"unicode/utf8"

	"latent"
	"latent/engine"
)

// Limits of raw completions.
const (
	maxPrompts         = 1024
	defaultCompletion  = 16 // max_tokens, as OpenAI has it
	maxNumber          = math.MaxInt32
	idListBodyMultiple = 4 // bodies with lists of ids may be this many times as large
)

// completionForm is a raw completion: a text in, its continuation out.
type completionForm struct {
	echo         bool
	wantLogprobs bool
	skipSpecial  bool
	includeStop  bool
	tokens       *tokenTexts
}

// handleCompletions answers POST /v1/completions.
func (s *Server) handleCompletions(x *exchange) {
	f, ok := s.admit(x, idListBodyMultiple*s.config.MaxRequestBytes)
	if !ok {
		return
	}
	g := s.parseGeneration(f)
	form := s.parseCompletion(f, &g)
	raw := f.take("prompt")
	if raw == nil {
		f.fail(invalid(f.at("prompt"), "missing, want a string, an array of strings, or one or several arrays of token ids"))
	}
	if f.err != nil {
		x.fail(f.err)
		return
	}
	prompts, err := s.parsePrompts(f.at("prompt"), raw, vocabularyOf(g.params), form.skipSpecial)
	switch {
	case err != nil:
		x.fail(err)
		return
	case x.bodyBytes > s.config.MaxRequestBytes && prompts[0].typed:
		x.fail(tooLarge(s.config.MaxRequestBytes))
		return
	}
	x.listIgnored(f)
	for i := range prompts {
		p := &prompts[i]
		p.probs = form.echo && form.wantLogprobs
		if !p.typed {
			continue
		}
		if p.ids, p.parser, err = s.encode(fmt.Sprintf("prompt[%d]", i), latent.Request{Prompt: p.text}); err != nil {
			x.fail(err)
			return
		}
	}
	s.answer(x, &g, form, prompts)
}

func (s *Server) encode(path string, r latent.Request) ([]int32, func() *latent.ChoiceParser, *failure) {
	ids, parser, err := s.engine().Encode(r)
	if err != nil {
		return nil, nil, s.encodingFailure(err)
	}
	if len(ids) == 0 {
		return nil, nil, invalid(path, "is empty, want at least one token")
	}
	return ids, parser, nil
}

func (s *Server) parseCompletion(f *fields, g *generation) *completionForm {
	form := &completionForm{skipSpecial: g.skipSpecial, includeStop: g.includeStop, tokens: s.tokenTexts()}
	f.boolean("echo", &form.echo)
	g.maxTokens = defaultCompletion
	f.int("max_tokens", &g.maxTokens, 0, maxNumber)
	if g.maxTokens == 0 && !form.echo {
		f.fail(invalid(f.at("max_tokens"), "is 0, which needs echo to be true"))
	}
	g.checkMinTokens(f)
	f.int("logprobs", &g.params.Logprobs, 0, maxLogprobs)
	form.wantLogprobs = g.params.Logprobs >= 0
	best := g.n
	f.int("best_of", &best, 1, maxChoices)
	if best != 1 && best != g.n {
		f.fail(unsupported(f.at("best_of"), "is %d, want 1 or n, which is %d", best, g.n))
	}
	if f.asks("suffix") {
		f.fail(unsupported(f.at("suffix"), "is not supported"))
	}
	special := true
	f.boolean("add_special_tokens", &special)
	if !special {
		f.fail(unsupported(f.at("add_special_tokens"), "is not supported; send token ids for full control"))
	}
	refuseFormat(f)
	return form
}

// parsePrompts reads a string, a list of strings, a list of ids or a list of
// lists of ids. Texts are left to be encoded.
func (s *Server) parsePrompts(path string, raw []byte, vocabulary int, skipSpecial bool) ([]prompt, *failure) {
	var prompts []prompt
	add := func(path string, raw []byte) *failure {
		switch raw[0] {
		case '"':
			p := prompt{text: unquote(raw), typed: true}
			if p.text == "" {
				return invalid(path, "is empty, want at least one token")
			}
			prompts = append(prompts, p)
		case '[':
			ids, err := parseIDs(path, raw, vocabulary)
			if err != nil {
				return err
			}
			if len(ids) == 0 {
				return invalid(path, "is empty, want at least one token")
			}
			_, parser, err := s.encode(path, latent.Request{Tokens: ids})
			if err != nil {
				return err
			}
			prompts = append(prompts, prompt{ids: ids, parser: parser, text: s.tokenTexts().decode(ids, skipSpecial)})
		default:
			return invalid(path, "want a string or an array of token ids, found %s", kindOf(raw))
		}
		return nil
	}
	first, _, _ := nextItem(raw[1:])
	if raw[0] != '[' || len(first) == 0 || first[0] != '"' && first[0] != '[' {
		err := add(path, raw) // one text, or one list of ids
		return prompts, err
	}
	list := items(raw)
	if len(list) > maxPrompts {
		return nil, invalid(path, "has %d prompts, want at most %d", len(list), maxPrompts)
	}
	for i, item := range list {
		if err := add(fmt.Sprintf("%s[%d]", path, i), item); err != nil {
			return nil, err
		}
	}
	return prompts, nil
}

type completionChoice struct {
	Index          int                 `json:"index"`
	Text           string              `json:"text"`
	Logprobs       *completionLogprobs `json:"logprobs"`
	FinishReason   *string             `json:"finish_reason"`
	MatchedStop    any                 `json:"matched_stop"`
	TokenIDs       []int32             `json:"token_ids,omitempty"`
	PromptTokenIDs []int32             `json:"prompt_token_ids,omitempty"`
}

func (form *completionForm) object(bool) string { return "text_completion" }
func (form *completionForm) idPrefix() string   { return "cmpl-" }
func (form *completionForm) input() string      { return "prompt" }

// take puts the prompt in front of a choice's first delta if it is to be echoed.
func (form *completionForm) take(c *choice, d *latent.Delta) {
	if form.echo && !c.begun {
		d.Text = c.prompt.text + d.Text
	}
}

func (form *completionForm) chunk(c *choice, d *latent.Delta, ids bool) any {
	out := completionChoice{Index: c.index, Text: d.Text, FinishReason: finishReason(d), MatchedStop: d.MatchedStop}
	form.add(&out, c, d, !c.begun, ids)
	return out
}

func (form *completionForm) whole(c *choice, ids bool) any {
	out := completionChoice{Index: c.index, Text: c.all.Text, FinishReason: finishReason(&c.all), MatchedStop: c.all.MatchedStop}
	form.add(&out, c, &c.all, true, ids)
	return out
}

// add fills in what describes tokens: those of the prompt if first, then those
// of d.
func (form *completionForm) add(out *completionChoice, c *choice, d *latent.Delta, first, ids bool) {
	if ids {
		out.TokenIDs = idsOf(d.Tokens)
		if first {
			out.PromptTokenIDs = c.prompt.ids
		}
	}
	if !form.wantLogprobs {
		return
	}
	l := &completionLogprobs{Tokens: []string{}, TokenLogprobs: []*jsonFloat{}, TopLogprobs: []topLogprobs{}, TextOffset: []int{}}
	if form.echo && first {
		for i, t := range c.prompt.tokens {
			l.add(form.tokens, t, c.offset)
			c.offset += form.promptLength(c.prompt, i)
		}
	}
	for i, t := range d.Tokens {
		l.add(form.tokens, t, c.offset)
		if stopped := d.MatchedStop == t.ID && i == len(d.Tokens)-1; !stopped || form.includeStop {
			c.offset += form.length(t)
		}
	}
	out.Logprobs = l
}

// promptLength returns how many characters of the echoed text token i of the
// prompt is. Special tokens that a client typed are in the text; one that the
// tokenizer put in front is not.
func (form *completionForm) promptLength(p *prompt, i int) int {
	t := p.tokens[i]
	if !p.typed {
		return form.length(t)
	}
	b := form.tokens.bytes(t.ID)
	if i == 0 && form.tokens.special(t.ID) && !hasPrefix(p.text, b) {
		return 0
	}
	return characters(b)
}

func (form *completionForm) length(t engine.Token) int {
	if form.skipSpecial && form.tokens.special(t.ID) {
		return 0
	}
	return characters(form.tokens.bytes(t.ID))
}

func hasPrefix(text string, b []byte) bool {
	return len(text) >= len(b) && text[:len(b)] == string(b) && utf8.Valid(b)
}
