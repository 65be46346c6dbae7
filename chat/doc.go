// Package chat turns conversations into prompts and completions into messages,
// in the encoding of DeepSeek-V3.2, which has no Jinja template: roles are
// marked by special tokens, reasoning sits between <think> and </think>, and
// tool calls are written in DSML, an XML-like markup.
//
// The way in is [V32.Render]: messages to one string, with the byte ranges in
// which special tokens may match. Only markup that the encoder writes itself is
// in these ranges, so a user who types "<｜User｜>" types text. The way out is
// [Parser]: it takes decoded text in pieces, as it is generated, and splits it
// into reasoning, content and tool calls.
//
// JSON that a model sees (tools, schemas, arguments) keeps its key order and
// its digits and is written as Python's json.dumps(ensure_ascii=False) writes
// it, because that is what the models were trained on; see [Value].
//
// The package does not tokenize (package token), sample or stop (package
// sample), and knows nothing of HTTP; it imports only the standard library.
package chat
