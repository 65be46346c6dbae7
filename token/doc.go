// Package token turns text into token ids and back: byte-level BPE as
// described by a Hugging Face tokenizer.json or by Kimi's tiktoken.model, with a
// detokenizer that streams.
//
// A text goes through four stages, each with a file of its own: added tokens
// are found (added.go), the stretches between them are cut into pieces
// (pretokenize.go, scan.go, pattern.go), every piece is merged by rank
// (bpe.go), and ids become text again (decode.go).
//
// The pieces decide the ids, so they must be exactly those of the reference.
// The patterns of the DeepSeek-V3 and GLM families, which the standard
// library's regexp cannot express because of a look-ahead, have hand-written
// scanners that run in linear time; any other pattern in the supported syntax
// runs on a backtracking matcher. What a file asks for and this package does
// not do (normalizers, byte fallback, unknown tokens, dropout, other split
// behaviours) is refused by [Load] with an error, never approximated.
//
// The package knows nothing about conversations: which markup surrounds a
// message, and where that markup may become special tokens, is decided by the
// caller ([Tokenizer.EncodeSpans]). It imports the standard library only.
package token
