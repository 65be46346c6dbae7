package token

import (
	"slices"
	"sync"
)

// Tokenizer is a loaded tokenizer. It never changes after loading and is safe
// for concurrent use.
type Tokenizer struct {
	entries []entry          // by id; holes have no bytes and are not present
	ids     map[string]int32 // by content, in the file's spelling
	stages  []splitter
	model   bpe
	// Added tokens are looked for in two passes: those to be matched in the
	// raw text, then those to be matched in the normalized text.
	raw, normalized *addedSet

	templateBOS string // what the post_processor puts first, "" if nothing
	config      Config

	scratch sync.Pool // *scratch
}

// entry is a token: its bytes, and whether skipSpecial leaves it out.
type entry struct {
	bytes   string
	present bool
	special bool
}

// textMarkers are added tokens that skipSpecial keeps even if the file calls
// them special: they are structure that is recognised in the decoded text
// (reasoning, DeepSeek-V3.2's tool calls), and would be lost without a trace.
var textMarkers = [...]string{"<think>", "</think>", "｜DSML｜"}

// Size is one more than the highest id of a token. A model's vocabulary may be
// larger: it is often padded.
func (t *Tokenizer) Size() int { return len(t.entries) }

// ID finds a token by its content: for an added token its text, for any other
// the spelling of the file's vocabulary, in which a space is "Ġ".
func (t *Tokenizer) ID(content string) (int, bool) {
	id, ok := t.ids[content]
	return int(id), ok
}

// IsSpecial tells whether decoding with skipSpecial leaves the token out: the
// file calls it special, and it is not one of the markers <think>, </think>
// and ｜DSML｜, which are part of the text whatever the file says.
func (t *Tokenizer) IsSpecial(id int) bool {
	return id >= 0 && id < len(t.entries) && t.entries[id].special
}

// TokenBytes gives the bytes that a token contributes to the text, which need
// not be whole characters; nil if there is no such token.
func (t *Tokenizer) TokenBytes(id int) []byte {
	if id < 0 || id >= len(t.entries) || !t.entries[id].present {
		return nil
	}
	return []byte(t.entries[id].bytes)
}

// TokenText is the text of a single token, with U+FFFD for incomplete
// characters; "" if there is no such token.
func (t *Tokenizer) TokenText(id int) string { return t.Decode([]int{id}, false) }

// BOS gives the id of the beginning-of-sequence token, if there is one:
// bos_token of tokenizer_config.json, else what the post_processor of
// tokenizer.json puts before a text.
func (t *Tokenizer) BOS() (int, bool) {
	if t.config.BOSToken != "" {
		return t.ID(t.config.BOSToken)
	}
	return t.ID(t.templateBOS)
}

// EOS gives the id of eos_token of tokenizer_config.json, if there is one.
// Generation stops at the ids of generation_config.json and config.json.
func (t *Tokenizer) EOS() (int, bool) { return t.ID(t.config.EOSToken) }

// Pad gives the id of pad_token of tokenizer_config.json, if there is one.
func (t *Tokenizer) Pad() (int, bool) { return t.ID(t.config.PadToken) }

// AddBOS tells whether a raw text is to begin with BOS: add_bos_token of
// tokenizer_config.json, else whether the post_processor adds it.
func (t *Tokenizer) AddBOS() bool {
	if _, ok := t.BOS(); !ok {
		return false
	}
	if t.config.AddBOSToken != nil {
		return *t.config.AddBOSToken
	}
	return t.templateBOS != ""
}

// WithBOS puts BOS before the ids of a raw text if [Tokenizer.AddBOS] asks for
// it and they do not begin with it already. Encoding never adds it: the prompt
// of a conversation contains its own.
func (t *Tokenizer) WithBOS(ids []int) []int {
	bos, _ := t.BOS()
	if !t.AddBOS() || len(ids) > 0 && ids[0] == bos {
		return ids
	}
	return append([]int{bos}, ids...)
}

// Config gives what tokenizer_config.json says; it is zero after [Load].
func (t *Tokenizer) Config() Config { return t.config }

// isTextMarker tells whether content is one of textMarkers.
func isTextMarker(content string) bool { return slices.Contains(textMarkers[:], content) }
