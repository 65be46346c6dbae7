package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// maxID bounds the ids of a file, and with them the memory of a tokenizer.
// The largest vocabularies in use have about a quarter of a million tokens.
const maxID = 1 << 20

// tokenizerFile is tokenizer.json as far as it decides what encoding and
// decoding do. Truncation and padding are settings for batches of training
// examples and are not honoured.
type tokenizerFile struct {
	AddedTokens   []addedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  *preTokenizer   `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       *struct{ Type string }
	Model         modelFile
}

// modelFile is the "model" of tokenizer.json.
type modelFile struct {
	Type                    string
	Dropout                 *float64
	UnkToken                *string `json:"unk_token"`
	ContinuingSubwordPrefix *string `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string `json:"end_of_word_suffix"`
	ByteFallback            bool    `json:"byte_fallback"`
	IgnoreMerges            bool    `json:"ignore_merges"`
	Vocab                   map[string]int32
	Merges                  mergeList
}

// mergeList reads merges written as "a b" or as ["a", "b"].
type mergeList [][2]string

func (l *mergeList) UnmarshalJSON(data []byte) error {
	var pairs [][]string
	if json.Unmarshal(data, &pairs) == nil {
		for i, p := range pairs {
			if len(p) != 2 {
				return fmt.Errorf("merge %d has %d parts, not two", i, len(p))
			}
			*l = append(*l, [2]string{p[0], p[1]})
		}
		return nil
	}
	var lines []string
	if err := json.Unmarshal(data, &lines); err != nil {
		return errors.New(`merges are neither a list of "a b" nor of ["a", "b"]`)
	}
	for i, line := range lines {
		left, right, ok := strings.Cut(line, " ")
		if !ok || strings.Contains(right, " ") {
			return fmt.Errorf("merge %d, %q, is not two tokens with a space between", i, line)
		}
		*l = append(*l, [2]string{left, right})
	}
	return nil
}

// Load reads a tokenizer.json. It refuses, with an error that names it,
// anything that would make encoding or decoding differ from byte-level BPE
// with isolating splits.
func Load(data []byte) (*Tokenizer, error) {
	var f tokenizerFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("read tokenizer.json: %w", err)
	}
	t, err := newTokenizer(&f)
	if err != nil {
		return nil, fmt.Errorf("read tokenizer.json: %w", err)
	}
	return t, nil
}

func newTokenizer(f *tokenizerFile) (*Tokenizer, error) {
	if err := f.Model.check(); err != nil {
		return nil, err
	}
	if err := checkNormalizer(f.Normalizer); err != nil {
		return nil, err
	}
	if f.Decoder == nil || f.Decoder.Type != "ByteLevel" {
		return nil, errors.New("decoder: only ByteLevel is supported")
	}
	if f.PreTokenizer == nil {
		return nil, errors.New("pre_tokenizer is missing; it must have a ByteLevel stage")
	}
	t := &Tokenizer{
		ids:         make(map[string]int32, len(f.Model.Vocab)+len(f.AddedTokens)),
		raw:         newAddedSet(),
		normalized:  newAddedSet(),
		templateBOS: templateBOS(f.PostProcessor),
	}
	var err error
	byteLevel := false
	if t.stages, err = f.PreTokenizer.stages(nil, &byteLevel); err != nil {
		return nil, err
	}
	if !byteLevel {
		return nil, errors.New("pre_tokenizer: there is no ByteLevel stage; only byte-level BPE is supported")
	}
	for content, id := range f.Model.Vocab {
		if err := t.enter(content, spelledBytes(content), id); err != nil {
			return nil, err
		}
	}
	for _, tok := range f.AddedTokens {
		if err := t.enterAdded(tok); err != nil {
			return nil, err
		}
	}
	t.model, err = newBPE(&f.Model, t)
	return t, err
}

// check refuses models that are not plain byte-level BPE.
func (m *modelFile) check() error {
	set := func(s *string) bool { return s != nil && *s != "" }
	switch {
	case m.Type != "BPE":
		return fmt.Errorf("model type %q is not supported, only BPE", m.Type)
	case m.Dropout != nil && *m.Dropout != 0:
		return errors.New("model: dropout is not supported")
	case m.UnkToken != nil:
		return errors.New("model: unk_token is not supported")
	case set(m.ContinuingSubwordPrefix):
		return errors.New("model: continuing_subword_prefix is not supported")
	case set(m.EndOfWordSuffix):
		return errors.New("model: end_of_word_suffix is not supported")
	case m.ByteFallback:
		return errors.New("model: byte_fallback is not supported")
	}
	return nil
}

// checkNormalizer accepts none, and an empty sequence, which is the same.
func checkNormalizer(data json.RawMessage) error {
	var n *struct {
		Type        string
		Normalizers []json.RawMessage
	}
	if len(data) == 0 {
		return nil
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return fmt.Errorf("normalizer: %w", err)
	}
	if n == nil || n.Type == "Sequence" && len(n.Normalizers) == 0 {
		return nil
	}
	return fmt.Errorf("normalizer %s is not supported, only null", n.Type)
}

// templateBOS gives the special token that a TemplateProcessing
// post_processor, alone or in a sequence, puts before a text. Other
// post-processors do not change ids.
func templateBOS(data json.RawMessage) string {
	var p struct {
		Type       string
		Processors []json.RawMessage
		Single     []struct{ SpecialToken *struct{ ID string } }
	}
	if len(data) == 0 || json.Unmarshal(data, &p) != nil {
		return ""
	}
	if p.Type == "TemplateProcessing" && len(p.Single) > 0 && p.Single[0].SpecialToken != nil {
		return p.Single[0].SpecialToken.ID
	}
	for _, inner := range p.Processors {
		if bos := templateBOS(inner); bos != "" {
			return bos
		}
	}
	return ""
}

// enter records a token under its id.
func (t *Tokenizer) enter(content, bytes string, id int32) error {
	if id < 0 || id >= maxID {
		return fmt.Errorf("token %q has the id %d, which is not in [0, %d)", content, id, maxID)
	}
	if grow := int(id) + 1 - len(t.entries); grow > 0 {
		t.entries = append(t.entries, make([]entry, grow)...)
	}
	if e := t.entries[id]; e.present {
		return fmt.Errorf("tokens %q and %q have the same id, %d", e.bytes, bytes, id)
	}
	t.entries[id] = entry{bytes: bytes, present: true}
	t.ids[content] = id
	return nil
}

// enterAdded records an added token. One that the vocabulary has already
// keeps the vocabulary's id; its text is its content, whatever the spelling.
func (t *Tokenizer) enterAdded(tok addedToken) error {
	if tok.Content == "" {
		return nil
	}
	if id, ok := t.ids[tok.Content]; ok {
		tok.ID = id
		t.entries[id].bytes = tok.Content
	} else if err := t.enter(tok.Content, tok.Content, tok.ID); err != nil {
		return err
	}
	if tok.Special && !isTextMarker(tok.Content) {
		t.entries[tok.ID].special = true
	}
	set := t.raw
	if tok.Normalized != nil && *tok.Normalized || tok.Normalized == nil && !tok.Special {
		set = t.normalized
	}
	if !set.has(tok.Content) {
		set.add(tok)
	}
	return nil
}

// newBPE builds the model from the file; t has all tokens.
func newBPE(f *modelFile, t *Tokenizer) (bpe, error) {
	m := bpe{merges: make(map[pair]merge, len(f.Merges)), cache: newPieceCache()}
	for b := range m.bytes {
		id, ok := f.Vocab[spelling(string([]byte{byte(b)}))]
		if !ok {
			return bpe{}, fmt.Errorf("model: the vocabulary has no token for the byte 0x%02X", b)
		}
		m.bytes[b] = id
	}
	for rank, parts := range f.Merges {
		left, ok1 := f.Vocab[parts[0]]
		right, ok2 := f.Vocab[parts[1]]
		made, ok3 := f.Vocab[parts[0]+parts[1]]
		if !ok1 || !ok2 || !ok3 {
			return bpe{}, fmt.Errorf("model: merge %d of %q and %q needs a token that the vocabulary lacks", rank, parts[0], parts[1])
		}
		m.merges[pair{left, right}] = merge{uint32(rank), made}
	}
	if f.IgnoreMerges {
		m.whole = make(map[string]int32, len(f.Vocab))
		for content, id := range f.Vocab {
			// A special token stored in the vocabulary must not come out of
			// ordinary text that happens to be spelled like it.
			if !t.entries[id].special {
				m.whole[spelledBytes(content)] = id
			}
		}
	}
	return m, nil
}
