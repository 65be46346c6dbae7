package server

import (
	"encoding/json"

	"latent"
	"latent/chat"
	"latent/engine"
)

// chatForm is a chat completion: a conversation in, a message out.
type chatForm struct {
	request      latent.Request
	oneCall      bool // parallel_tool_calls is false: later calls are dropped
	wantLogprobs bool
	top          int // top_logprobs
	tokens       *tokenTexts
}

// handleChat answers POST /v1/chat/completions.
func (s *Server) handleChat(x *exchange) {
	f, ok := s.admit(x, s.config.MaxRequestBytes)
	if !ok {
		return
	}
	g := s.parseGeneration(f)
	form := s.parseChat(f, &g)
	if f.err != nil {
		x.fail(f.err)
		return
	}
	x.listIgnored(f)
	ids, parser, err := s.engine().Encode(form.request)
	if err != nil {
		x.fail(s.encodingFailure(err))
		return
	}
	s.answer(x, &g, form, []prompt{{ids: ids, parser: parser}})
}

// encodingFailure is a conversation or text that cannot become tokens. What is
// not the input's fault is that the model has no chat encoding or tokenizer.
func (s *Server) encodingFailure(err error) *failure {
	if chatErr := s.engine().ChatError(); chatErr != nil && err == chatErr {
		return unsupported("", "%s", chatErr.Error())
	}
	return failureOf(err, nil)
}

func (s *Server) parseChat(f *fields, g *generation) *chatForm {
	form := &chatForm{tokens: s.tokenTexts()}
	r := &form.request
	r.ContinueFinal, r.NoGenerationPrompt = parseContinuation(f)
	r.Thinking = parseThinking(f)
	r.Tools, form.oneCall = parseToolChoice(f)
	refuseFormat(f)

	// The first of the two wins.
	f.int("max_tokens", &g.maxTokens, 1, maxNumber)
	f.int("max_completion_tokens", &g.maxTokens, 1, maxNumber)
	g.checkMinTokens(f)

	f.boolean("logprobs", &form.wantLogprobs)
	f.int("top_logprobs", &form.top, 0, maxLogprobs)
	if form.wantLogprobs {
		g.params.Logprobs = form.top
	} else if form.top > 0 {
		f.fail(invalid(f.at("top_logprobs"), "needs logprobs to be true"))
	}
	for _, key := range [...]string{"echo", "add_special_tokens"} { // of vLLM's chat
		if f.asks(key) {
			f.fail(unsupported(f.at(key), "is not supported"))
		}
	}

	raw := f.take("messages")
	if raw == nil {
		f.fail(invalid(f.at("messages"), "missing, want an array of messages"))
		return form
	}
	messages, err := chat.ParseMessages(raw)
	if err != nil {
		f.fail(failureOf(err, nil))
	}
	r.Messages = messages
	return form
}

func parseContinuation(f *fields) (continueFinal, noGenerationPrompt bool) {
	_, explicit := f.raw["add_generation_prompt"]
	generate := true
	f.boolean("add_generation_prompt", &generate)
	f.boolean("continue_final_message", &continueFinal)
	if continueFinal && explicit && generate {
		f.fail(invalid(f.at("continue_final_message"), "cannot be combined with add_generation_prompt"))
	}
	return continueFinal, !generate
}

// parseThinking takes what asks for reasoning: chat_template_kwargs, else
// reasoning_effort.
func parseThinking(f *fields) bool {
	thinking := false
	var effort string
	f.text("reasoning_effort", &effort)
	switch effort {
	case "", "none":
	case "minimal", "low", "medium", "high", "xhigh", "max":
		thinking = true
	default:
		f.fail(invalid(f.at("reasoning_effort"), "want none, minimal, low, medium, high, xhigh or max"))
	}
	if kwargs := f.object("chat_template_kwargs"); kwargs != nil {
		kwargs.boolean("enable_thinking", &thinking)
		kwargs.boolean("thinking", &thinking)
		for _, key := range kwargs.unknown() {
			f.raw[key] = nil // to be listed
		}
		f.close(kwargs)
	}
	return thinking
}

// parseToolChoice takes the tools that the model is shown: none with
// tool_choice none.
func parseToolChoice(f *fields) (tools []chat.Tool, oneCall bool) {
	tools, err := chat.ParseTools(f.take("tools"))
	if err != nil {
		f.fail(failureOf(err, nil))
	}
	parallel := true
	f.boolean("parallel_tool_calls", &parallel)
	choice := f.take("tool_choice")
	switch string(choice) {
	case "", `"auto"`:
	case `"none"`:
		tools = nil
	case `"required"`:
		f.fail(unsupported(f.at("tool_choice"), "required is not supported yet; use auto or none"))
	default:
		if choice[0] != '{' {
			f.fail(invalid(f.at("tool_choice"), "want none, auto, required or a named function"))
			break
		}
		f.fail(unsupported(f.at("tool_choice"), "a named function is not supported yet; use auto or none"))
	}
	return tools, !parallel
}

func refuseFormat(f *fields) {
	format := f.object("response_format")
	if format == nil {
		return
	}
	var kind string
	format.text("type", &kind)
	f.close(format)
	switch kind {
	case "text":
	case "json_object", "json_schema":
		f.fail(unsupported(f.at("response_format.type"), "%s is not supported yet; only text is", kind))
	default:
		f.fail(invalid(f.at("response_format.type"), "want text, json_object or json_schema"))
	}
}

// A message or, in a stream, what is new of it.
type chatMessage struct {
	Role      string      `json:"role,omitempty"`
	Content   *string     `json:"content,omitempty"`
	Reasoning string      `json:"reasoning_content,omitempty"`
	ToolCalls []*toolCall `json:"tool_calls,omitempty"`
}

// wholeMessage is chatMessage with the keys that every answer has.
type wholeMessage struct {
	Role      string      `json:"role"`
	Content   *string     `json:"content"`
	Refusal   *string     `json:"refusal"`
	Reasoning string      `json:"reasoning_content,omitempty"`
	ToolCalls []*toolCall `json:"tool_calls,omitempty"`
}

type toolCall struct {
	Index    *int         `json:"index,omitempty"` // in streams
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

type chatChoice struct {
	Index        int           `json:"index"`
	Message      *wholeMessage `json:"message,omitempty"`
	Delta        *chatMessage  `json:"delta,omitempty"`
	Logprobs     *chatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
	MatchedStop  any           `json:"matched_stop"`
	TokenIDs     []int32       `json:"token_ids,omitempty"`
}

func (form *chatForm) object(stream bool) string {
	if stream {
		return "chat.completion.chunk"
	}
	return "chat.completion"
}

func (form *chatForm) idPrefix() string { return "chatcmpl-" }
func (form *chatForm) input() string    { return "messages" }

// take prepares what an event adds.
func (form *chatForm) take(_ *choice, d *latent.Delta) {
	if !form.oneCall {
		return
	}
	kept := d.ToolCalls[:0]
	for _, call := range d.ToolCalls {
		if call.Index == 0 {
			kept = append(kept, call)
		}
	}
	d.ToolCalls = kept
}

func (form *chatForm) chunk(c *choice, d *latent.Delta, ids bool) any {
	out := chatChoice{Index: c.index, Delta: &chatMessage{Reasoning: d.Reasoning}, FinishReason: finishReason(d), MatchedStop: d.MatchedStop}
	if d.Text != "" || !c.begun {
		out.Delta.Content = &d.Text
	}
	if !c.begun {
		out.Delta.Role = string(chat.Assistant)
	}
	for _, call := range d.ToolCalls {
		part := &toolCall{Index: &call.Index, ID: call.ID, Function: functionCall{Name: call.Name, Arguments: call.Arguments}}
		if call.Name != "" {
			part.Type = "function"
		}
		out.Delta.ToolCalls = append(out.Delta.ToolCalls, part)
	}
	if form.wantLogprobs {
		out.Logprobs = form.logprobs(d.Tokens)
	}
	if ids {
		out.TokenIDs = idsOf(d.Tokens)
	}
	return out
}

func (form *chatForm) whole(c *choice, ids bool) any {
	message := &wholeMessage{Role: string(chat.Assistant), Content: &c.all.Text, Reasoning: c.all.Reasoning}
	for _, call := range c.all.ToolCalls {
		if call.Name != "" {
			message.ToolCalls = append(message.ToolCalls, &toolCall{ID: call.ID, Type: "function", Function: functionCall{Name: call.Name}})
		}
		f := &message.ToolCalls[call.Index].Function
		f.Arguments += call.Arguments
	}
	if c.all.Text == "" && len(message.ToolCalls) > 0 {
		message.Content = nil
	}
	out := chatChoice{Index: c.index, Message: message, FinishReason: finishReason(&c.all), MatchedStop: c.all.MatchedStop}
	if form.wantLogprobs {
		out.Logprobs = form.logprobs(c.all.Tokens)
	}
	if ids {
		out.TokenIDs = idsOf(c.all.Tokens)
	}
	return out
}

// finishReason is null until the choice ends.
func finishReason(d *latent.Delta) *string {
	if d.Finish == "" {
		return nil
	}
	return &d.Finish
}

func idsOf(tokens []engine.Token) []int32 {
	ids := make([]int32, len(tokens))
	for i, t := range tokens {
		ids[i] = t.ID
	}
	return ids
}

type chatLogprobs struct {
	Content []tokenLogprob  `json:"content"`
	Refusal json.RawMessage `json:"refusal"` // always null
}

type tokenLogprob struct {
	Token   string         `json:"token"`
	Bytes   tokenBytes     `json:"bytes"`
	Logprob jsonFloat      `json:"logprob"`
	Top     []tokenLogprob `json:"top_logprobs,omitzero"`
}

func (form *chatForm) logprobs(tokens []engine.Token) *chatLogprobs {
	out := &chatLogprobs{Content: []tokenLogprob{}}
	for _, t := range tokens {
		entry := form.entry(t.ID, t.Logprob)
		entry.Top = []tokenLogprob{}
		// The engine reports the chosen token behind the most likely ones if it
		// is not among them; here it has a place of its own.
		for i, top := range t.Top {
			if i < form.top {
				entry.Top = append(entry.Top, form.entry(top.ID, top.Logprob))
			}
		}
		out.Content = append(out.Content, entry)
	}
	return out
}

func (form *chatForm) entry(id int32, logprob float32) tokenLogprob {
	return tokenLogprob{Token: form.tokens.text(id), Bytes: form.tokens.bytes(id), Logprob: jsonFloat(logprob)}
}
