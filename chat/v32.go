package chat

import (
	"fmt"
	"strings"
)

// Special tokens and tags of the DeepSeek-V3.2 encoding. The bars are U+FF5C,
// the low lines U+2581. Whether a tag is one token is the tokenizer's affair.
const (
	bos            = "<｜begin▁of▁sentence｜>"
	eos            = "<｜end▁of▁sentence｜>"
	userMark       = "<｜User｜>"
	assistantMark  = "<｜Assistant｜>"
	thinkOpen      = "<think>"
	thinkClose     = "</think>"
	dsml           = "｜DSML｜"
	callsOpen      = "<" + dsml + "function_calls>"
	callsClose     = "</" + dsml + "function_calls>"
	invokeOpen     = "<" + dsml + "invoke"
	invokeClose    = "</" + dsml + "invoke>"
	parameterOpen  = "<" + dsml + "parameter"
	parameterClose = "</" + dsml + "parameter>"
	resultsOpen    = "<function_results>"
	resultsClose   = "</function_results>"
)

// The tools block: what the model was trained to see around the tools' JSON,
// byte for byte.
const (
	toolsBefore = `## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "` + callsOpen + `" block like the following as part of your reply to the user:
` + callsOpen + `
` + invokeOpen + ` name="$FUNCTION_NAME">
` + parameterOpen + ` name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE` + parameterClose + `
...
` + invokeClose + `
` + invokeOpen + ` name="$FUNCTION_NAME2">
...
` + invokeClose + `
` + callsClose + `

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. Here is an example:

` + callsOpen + `
...
` + callsClose + `

` + resultsOpen + `
...
` + resultsClose + `

` + thinkOpen + `...thinking about results` + thinkClose + `

Here are the functions available in JSONSchema format:
<functions>
`
	toolsAfter      = "\n</functions>\n"
	formatBefore    = "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
	developerBefore = "\n\n# The user's message is: "
)

// V32 is the chat encoding of DeepSeek-V3.2.
type V32 struct{}

// For returns the chat encoding of a checkpoint, given config.json's model_type
// and whether the checkpoint brings a Jinja chat template (chat_template in
// tokenizer_config.json, or chat_template.jinja). The error says what does work
// when chat does not.
func For(modelType string, template bool) (V32, error) {
	if template {
		return V32{}, fmt.Errorf("this checkpoint (model_type %q) brings a Jinja chat template, and chat templates are not supported yet; use raw completions with a prompt that holds the markup", modelType)
	}
	if modelType != "deepseek_v32" {
		return V32{}, fmt.Errorf("chat with model_type %q needs a chat template, which is not supported yet (deepseek_v32 needs none); use raw completions with a prompt that holds the markup", modelType)
	}
	return V32{}, nil
}

// Span is a range of bytes of a prompt, [From, To).
type Span struct{ From, To int }

// Prompt is a rendered conversation.
type Prompt struct {
	Text string
	// Markup holds the ranges of Text that the encoder wrote itself, ascending
	// and apart. Special tokens may match inside these ranges only; everything
	// else is text of users, tools and models.
	Markup []Span
	// Reasoning tells whether what the model writes next begins as reasoning;
	// it belongs in [ParserOptions].
	Reasoning bool
}

// builder collects a prompt.
type builder struct {
	text   strings.Builder
	markup []Span
}

// mark writes markup.
func (b *builder) mark(parts ...string) {
	from := b.text.Len()
	for _, s := range parts {
		b.text.WriteString(s)
	}
	to := b.text.Len()
	if n := len(b.markup); n > 0 && b.markup[n-1].To == from {
		b.markup[n-1].To = to
	} else if to > from {
		b.markup = append(b.markup, Span{from, to})
	}
}

// plain writes text that must not become markup.
func (b *builder) plain(s string) { b.text.WriteString(validUTF8(s)) }

// Render writes the conversation as the model was trained to read it (the
// encoding published with DeepSeek-V3.2), beginning-of-sentence token included.
//
// Reasoning of assistant turns is written for turns after the last user or
// developer message, so that it survives between tool calls, and only if
// req.Thinking. Errors are of type [InputError] and name the message.
func (V32) Render(req Request) (Prompt, error) {
	c, err := arrange(req)
	if err != nil {
		return Prompt{}, err
	}
	c.mark(bos)
	for i := range c.messages {
		if err := c.message(i); err != nil {
			return Prompt{}, err
		}
	}
	return Prompt{Text: c.text.String(), Markup: c.markup, Reasoning: c.reasoning}, nil
}

// conversation is a request on its way to a prompt.
type conversation struct {
	builder
	messages  []Message
	inserted  int // messages put in front of the request's own: 0 or 1
	last      int // index of the last user or developer message, -1 if none
	thinking  bool
	generate  bool
	open      bool // the last message is to be continued
	reasoning bool // the text so far ends inside reasoning

	calls, results int // of the current group of tool calls
}

// arrange checks what concerns the request as a whole and finds a place for its
// tools and its response format.
func arrange(req Request) (*conversation, error) {
	n := len(req.Messages)
	if n == 0 {
		return nil, inputErrorf("messages", "want at least one message")
	}
	if req.ContinueFinal {
		if req.AddGenerationPrompt {
			return nil, inputErrorf("continue_final_message", "cannot be combined with add_generation_prompt")
		}
		if role := req.Messages[n-1].Role; role != Assistant {
			return nil, inputErrorf("continue_final_message", "the last message is of role %q; only an assistant's can be continued", role)
		}
	}
	c := &conversation{
		messages: req.Messages,
		last:     -1,
		thinking: req.Thinking,
		generate: req.AddGenerationPrompt,
		open:     req.ContinueFinal,
	}
	if len(req.Tools) > 0 || len(req.ResponseFormat) > 0 {
		first := -1
		for i := range c.messages {
			if c.messages[i].Role == System {
				first = i
				break
			}
		}
		// The caller's messages stay as they are.
		if first < 0 {
			first, c.inserted = 0, 1
			c.messages = append([]Message{{Role: System}}, c.messages...)
		} else {
			c.messages = append([]Message(nil), c.messages...)
		}
		m := &c.messages[first]
		m.Tools = append(append([]Tool(nil), m.Tools...), req.Tools...)
		if len(req.ResponseFormat) > 0 {
			m.ResponseFormat = req.ResponseFormat
		}
	}
	for i := range c.messages {
		if role := c.messages[i].Role; role == User || role == Developer {
			c.last = i
		}
	}
	return c, nil
}

// where names message i as the caller counts.
func (c *conversation) where(i int) string { return fmt.Sprintf("messages[%d]", i-c.inserted) }

func (c *conversation) message(i int) error {
	m := &c.messages[i]
	if m.Role != ToolRole {
		if c.results > 0 && c.results < c.calls {
			return c.missingResults(i - 1)
		}
		c.calls, c.results = 0, 0
	}
	switch m.Role {
	case System:
		c.plain(m.Content)
		return c.extras(i)
	case User, Developer:
		c.mark(userMark)
		if m.Role == Developer {
			if m.Content == "" {
				return inputErrorf(c.where(i), "a developer message needs content")
			}
			if err := c.extras(i); err != nil {
				return err
			}
			c.mark(developerBefore)
		}
		c.plain(m.Content)
		if c.more(i) {
			c.mark(assistantMark)
			c.think(c.thinking && i == c.last)
		}
		return nil
	case Assistant:
		return c.assistant(i)
	case ToolRole:
		return c.result(i)
	}
	return inputErrorf(c.where(i), "unknown role %q; want system, developer, user, assistant or tool", m.Role)
}

// more tells whether an assistant's turn follows message i.
func (c *conversation) more(i int) bool { return c.generate || i < len(c.messages)-1 }

// think writes what stands before an assistant's turn.
func (c *conversation) think(open bool) {
	c.reasoning = open
	if open {
		c.mark(thinkOpen)
	} else {
		c.mark(thinkClose)
	}
}

// extras writes the tools and the response format of message i.
func (c *conversation) extras(i int) error {
	m := &c.messages[i]
	if len(m.Tools) > 0 {
		c.mark("\n\n", toolsBefore)
		for j := range m.Tools {
			if j > 0 {
				c.mark("\n")
			}
			v, err := ParseJSON(string(m.Tools[j].Function))
			if err != nil {
				return inputErrorf(c.where(i), "tool %q: %v", m.Tools[j].Name, err)
			}
			c.plain(v.String())
		}
		c.mark(toolsAfter)
	}
	if len(m.ResponseFormat) > 0 {
		v, err := ParseJSON(string(m.ResponseFormat))
		if err != nil {
			return inputErrorf(c.where(i), "response_format: %v", err)
		}
		c.mark(formatBefore)
		c.plain(v.String())
	}
	return nil
}

func (c *conversation) assistant(i int) error {
	m := &c.messages[i]
	open := c.open && i == len(c.messages)-1
	if c.thinking && i > c.last {
		if open && m.Content == "" && len(m.ToolCalls) == 0 {
			c.plain(m.ReasoningContent) // cut off while it was thinking
			return nil
		}
		if m.ReasoningContent == "" && len(m.ToolCalls) == 0 && !open {
			return inputErrorf(c.where(i), "with thinking on, an assistant message after the last user message needs reasoning_content or tool_calls")
		}
		c.plain(m.ReasoningContent)
		c.mark(thinkClose)
		c.reasoning = false
	}
	c.plain(m.Content)
	if err := c.toolCalls(i); err != nil {
		return err
	}
	if !open {
		c.mark(eos)
	}
	c.calls = len(m.ToolCalls)
	return nil
}

func (c *conversation) toolCalls(i int) error {
	m := &c.messages[i]
	if len(m.ToolCalls) == 0 {
		return nil
	}
	c.mark("\n\n", callsOpen, "\n")
	for j := range m.ToolCalls {
		call := &m.ToolCalls[j]
		arguments, err := parseArguments(call.Arguments)
		if err != nil {
			return inputErrorf(fmt.Sprintf("%s.tool_calls[%d].function.arguments", c.where(i), j), "%v", err)
		}
		c.mark(invokeOpen, ` name="`)
		c.plain(call.Name)
		c.mark(`">`, "\n")
		for k := range arguments {
			if k > 0 {
				c.mark("\n")
			}
			c.mark(parameterOpen, ` name="`)
			c.plain(arguments[k].Key)
			if v := arguments[k].Value; v.Kind == String {
				c.mark(`" string="true">`)
				c.plain(v.Text)
			} else {
				c.mark(`" string="false">`)
				c.plain(v.String())
			}
			c.mark(parameterClose)
		}
		c.mark("\n", invokeClose, "\n")
	}
	c.mark(callsClose)
	return nil
}

func parseArguments(text string) ([]Member, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	v, err := ParseJSON(text)
	if err != nil {
		return nil, err
	}
	if v.Kind != Object {
		return nil, fmt.Errorf("want a JSON object, found %s", v.Kind)
	}
	return v.Members, nil
}

// result writes the result of a tool call.
func (c *conversation) result(i int) error {
	if c.results == c.calls {
		if c.calls == 0 {
			return inputErrorf(c.where(i), "a tool message needs an assistant message with tool_calls before it")
		}
		return inputErrorf(c.where(i), "one tool message too many: the assistant message before it has %d tool_calls", c.calls)
	}
	if c.results == 0 {
		c.mark("\n\n", resultsOpen)
	}
	c.results++
	c.mark("\n<result>")
	c.plain(c.messages[i].Content)
	c.mark("</result>")
	switch {
	case c.results == c.calls:
		c.mark("\n", resultsClose)
		if c.more(i) {
			c.mark("\n\n")
			c.think(c.thinking && i >= c.last)
		}
	case i == len(c.messages)-1:
		return c.missingResults(i)
	}
	return nil
}

// missingResults reports a group of results that ends too early at message i.
func (c *conversation) missingResults(i int) error {
	return inputErrorf(c.where(i), "%d tool_calls have only %d tool messages; the model continues when all have one", c.calls, c.results)
}
