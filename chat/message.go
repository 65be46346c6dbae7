package chat

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Role is who speaks in a message.
type Role string

// The roles of a conversation.
const (
	System    Role = "system"
	Developer Role = "developer"
	User      Role = "user"
	Assistant Role = "assistant"
	ToolRole  Role = "tool"
)

// Message is one turn of a conversation.
type Message struct {
	Role    Role
	Content string
	// Name is the speaker's name; the encoding has no place for it.
	Name string

	ReasoningContent string     // of an assistant
	ToolCalls        []ToolCall // of an assistant

	// ToolCallID names the call that a tool message answers. Results are
	// matched to calls by order, as the reference encoder does.
	ToolCallID string

	// Tools and ResponseFormat are shown with a system or developer message
	// and ignored on others.
	Tools          []Tool
	ResponseFormat json.RawMessage
}

// ToolCall is an assistant's wish to have a function called.
type ToolCall struct {
	ID   string
	Name string
	// Arguments is a JSON object as text. In a conversation that is rendered,
	// empty text counts as an object without keys.
	Arguments string
}

// Tool is a function that the model may call.
type Tool struct {
	Name string
	// Function is the tool's "function" object as the client wrote it: name,
	// description, parameters and whatever else it holds.
	Function json.RawMessage
}

// Request is a conversation to be continued.
type Request struct {
	Messages []Message
	// Tools and ResponseFormat of the request as a whole are shown with the
	// first system message; an empty one is put in front if there is none.
	// ResponseFormat is shown as it is; for response_format json_schema this
	// is meant to be the schema.
	Tools          []Tool
	ResponseFormat json.RawMessage

	// Thinking asks for reasoning before the answer.
	Thinking bool
	// AddGenerationPrompt ends the prompt so that the assistant speaks next.
	// It has no effect after a final assistant message, which stands as it is.
	AddGenerationPrompt bool
	// ContinueFinal leaves the last message, which must be the assistant's,
	// open, for the model to go on with.
	ContinueFinal bool
}

// InputError says what is wrong with a request and where.
type InputError struct {
	Where string // such as "messages[3].content"
	What  string
}

func (e *InputError) Error() string { return e.Where + ": " + e.What }

func inputErrorf(where, format string, args ...any) error {
	return &InputError{where, fmt.Sprintf(format, args...)}
}

// MaxMessages is the largest number of messages in a conversation.
const MaxMessages = 4096

// ParseMessages reads the "messages" of a chat completion request. Content may
// be a string, null or an array of parts of type text, whose texts are joined.
// Keys that mean nothing here are ignored. Errors are of type [InputError].
func ParseMessages(raw json.RawMessage) ([]Message, error) {
	v, err := parseField("messages", raw)
	if err != nil {
		return nil, err
	}
	if v.Kind != Array {
		return nil, inputErrorf("messages", "want an array, found %s", v.Kind)
	}
	if n := len(v.Items); n == 0 || n > MaxMessages {
		return nil, inputErrorf("messages", "want 1 to %d messages, found %d", MaxMessages, n)
	}
	messages := make([]Message, len(v.Items))
	for i := range messages {
		if err := messages[i].parse(fmt.Sprintf("messages[%d]", i), v.Items[i]); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

// ParseTools reads the "tools" of a chat completion request; null and absent
// mean none. Errors are of type [InputError].
func ParseTools(raw json.RawMessage) ([]Tool, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	v, err := parseField("tools", raw)
	if err != nil {
		return nil, err
	}
	return parseTools("tools", v)
}

func parseField(where string, raw json.RawMessage) (Value, error) {
	v, err := ParseJSON(string(raw))
	if err != nil {
		return Value{}, &InputError{where, err.Error()}
	}
	return v, nil
}

func (m *Message) parse(where string, v Value) error {
	if v.Kind != Object {
		return inputErrorf(where, "want an object, found %s", v.Kind)
	}
	var role string
	for _, field := range []struct {
		key string
		dst *string
	}{
		{"role", &role},
		{"name", &m.Name},
		{"reasoning", &m.ReasoningContent},
		{"reasoning_content", &m.ReasoningContent}, // wins over its alias
		{"tool_call_id", &m.ToolCallID},
	} {
		if err := optionalString(where, v, field.key, field.dst); err != nil {
			return err
		}
	}
	m.Role = Role(role)
	switch m.Role {
	case System, Developer, User, Assistant, ToolRole:
	case "":
		return inputErrorf(where+".role", "missing; want system, developer, user, assistant or tool")
	default:
		return inputErrorf(where+".role", "unknown role %q; want system, developer, user, assistant or tool", role)
	}

	content, _ := v.Get("content")
	text, err := parseContent(where+".content", content)
	if err != nil {
		return err
	}
	m.Content = text

	if m.Role == Assistant {
		calls, _ := v.Get("tool_calls")
		if m.ToolCalls, err = parseCalls(where+".tool_calls", calls); err != nil {
			return err
		}
	}
	if m.Role == System || m.Role == Developer {
		tools, _ := v.Get("tools")
		if m.Tools, err = parseTools(where+".tools", tools); err != nil {
			return err
		}
		if format, _ := v.Get("response_format"); format.Kind != Null {
			m.ResponseFormat = format.Append(nil)
		}
	}
	return nil
}

// optionalString sets dst if v has a string called key; null counts as absent.
func optionalString(where string, v Value, key string, dst *string) error {
	s, _ := v.Get(key)
	switch s.Kind {
	case Null:
	case String:
		*dst = s.Text
	default:
		return inputErrorf(where+"."+key, "want a string, found %s", s.Kind)
	}
	return nil
}

func parseContent(where string, v Value) (string, error) {
	switch v.Kind {
	case Null:
		return "", nil
	case String:
		return v.Text, nil
	case Array:
		var text strings.Builder
		for i, part := range v.Items {
			at := fmt.Sprintf("%s[%d]", where, i)
			if part.Kind != Object {
				return "", inputErrorf(at, `want a part such as {"type": "text", "text": "..."}, found %s`, part.Kind)
			}
			if kind, _ := part.Get("type"); kind.Kind != String || kind.Text != "text" {
				return "", inputErrorf(at+".type", "parts of type %s are not supported; this model reads text only", kind)
			}
			s, _ := part.Get("text")
			if s.Kind != String {
				return "", inputErrorf(at+".text", "want a string, found %s", s.Kind)
			}
			text.WriteString(s.Text)
		}
		return text.String(), nil
	}
	return "", inputErrorf(where, "want a string, null or an array of text parts, found %s", v.Kind)
}

// functionOf returns the function object of a tool or a tool call.
func functionOf(where string, v Value) (function Value, name string, err error) {
	if v.Kind != Object {
		return Value{}, "", inputErrorf(where, "want an object, found %s", v.Kind)
	}
	if kind, ok := v.Get("type"); ok && (kind.Kind != String || kind.Text != "function") {
		return Value{}, "", inputErrorf(where+".type", `%s is not supported; want "function"`, kind)
	}
	function, _ = v.Get("function")
	if function.Kind != Object {
		return Value{}, "", inputErrorf(where+".function", "want an object, found %s", function.Kind)
	}
	if err := optionalString(where+".function", function, "name", &name); err != nil {
		return Value{}, "", err
	}
	if name == "" {
		return Value{}, "", inputErrorf(where+".function.name", "missing")
	}
	return function, name, nil
}

func parseCalls(where string, v Value) ([]ToolCall, error) {
	if v.Kind == Null {
		return nil, nil
	}
	if v.Kind != Array {
		return nil, inputErrorf(where, "want an array, found %s", v.Kind)
	}
	calls := make([]ToolCall, len(v.Items))
	for i := range calls {
		at := fmt.Sprintf("%s[%d]", where, i)
		function, name, err := functionOf(at, v.Items[i])
		if err != nil {
			return nil, err
		}
		calls[i].Name = name
		if err := optionalString(at, v.Items[i], "id", &calls[i].ID); err != nil {
			return nil, err
		}
		switch arguments, _ := function.Get("arguments"); arguments.Kind {
		case Null:
		case String:
			calls[i].Arguments = arguments.Text
		case Object: // some clients forget to serialise
			calls[i].Arguments = arguments.String()
		default:
			return nil, inputErrorf(at+".function.arguments", "want a string with a JSON object, found %s", arguments.Kind)
		}
	}
	return calls, nil
}

func parseTools(where string, v Value) ([]Tool, error) {
	if v.Kind == Null {
		return nil, nil
	}
	if v.Kind != Array {
		return nil, inputErrorf(where, "want an array, found %s", v.Kind)
	}
	tools := make([]Tool, len(v.Items))
	for i := range tools {
		at := fmt.Sprintf("%s[%d]", where, i)
		function, name, err := functionOf(at, v.Items[i])
		if err != nil {
			return nil, err
		}
		if parameters, _ := function.Get("parameters"); parameters.Kind != Null && parameters.Kind != Object {
			return nil, inputErrorf(at+".function.parameters", "want a JSON Schema object, found %s", parameters.Kind)
		}
		tools[i] = Tool{Name: name, Function: function.Append(nil)}
	}
	return tools, nil
}
