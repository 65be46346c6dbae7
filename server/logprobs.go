package server

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"latent"
	"latent/engine"
	"latent/sample"
)

// maxLogprobs bounds how many tokens are reported beside the chosen one.
const maxLogprobs = sample.MaxLogprobs

// tokenTexts tells what tokens say. Without a tokenizer they say nothing.
type tokenTexts struct{ engine *latent.Engine }

func (s *Server) tokenTexts() *tokenTexts { return &tokenTexts{s.engine()} }

func (t *tokenTexts) bytes(id int32) []byte {
	if tok := t.engine.Tokenizer(); tok != nil {
		return tok.TokenBytes(int(id))
	}
	return nil
}

// text is the token's text, with U+FFFD for incomplete characters.
func (t *tokenTexts) text(id int32) string {
	if tok := t.engine.Tokenizer(); tok != nil {
		return tok.TokenText(int(id))
	}
	return ""
}

func (t *tokenTexts) special(id int32) bool {
	tok := t.engine.Tokenizer()
	return tok != nil && tok.IsSpecial(int(id))
}

// decode is the text of token ids.
func (t *tokenTexts) decode(ids []int32, skipSpecial bool) string {
	tok := t.engine.Tokenizer()
	if tok == nil {
		return ""
	}
	list := make([]int, len(ids))
	for i, id := range ids {
		list[i] = int(id)
	}
	return tok.Decode(list, skipSpecial)
}

// jsonFloat is a number for JSON, which has no infinities: an impossible
// token's log probability becomes a very small one, as in vLLM.
type jsonFloat float32

const impossible = "-9999"

// MarshalJSON writes the shortest decimal that reads back as the same float32.
func (f jsonFloat) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(f), -1) {
		return []byte(impossible), nil
	}
	return strconv.AppendFloat(nil, float64(f), 'g', -1, 32), nil
}

// tokenBytes are written as an array of numbers.
type tokenBytes []byte

// MarshalJSON writes [104,105].
func (b tokenBytes) MarshalJSON() ([]byte, error) {
	out := []byte{'['}
	for i, c := range b {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendUint(out, uint64(c), 10)
	}
	return append(out, ']'), nil
}

// completionLogprobs is the format of raw completions: parallel lists.
type completionLogprobs struct {
	Tokens        []string      `json:"tokens"`
	TokenLogprobs []*jsonFloat  `json:"token_logprobs"`
	TopLogprobs   []topLogprobs `json:"top_logprobs"`
	TextOffset    []int         `json:"text_offset"`
}

// topLogprobs is an object from token to log probability, the likeliest first;
// nil is null.
type topLogprobs []topEntry

type topEntry struct {
	key     string
	logprob jsonFloat
}

// MarshalJSON writes an object with its keys in order.
func (t topLogprobs) MarshalJSON() ([]byte, error) {
	if t == nil {
		return []byte("null"), nil
	}
	out := []byte{'{'}
	for i, e := range t {
		if i > 0 {
			out = append(out, ',')
		}
		key, err := marshal(e.key)
		if err != nil {
			return nil, err
		}
		number, _ := e.logprob.MarshalJSON()
		out = append(append(append(out, key...), ':'), number...)
	}
	return append(out, '}'), nil
}

// add appends a token whose text begins at offset.
func (l *completionLogprobs) add(texts *tokenTexts, t engine.Token, offset int) {
	l.TextOffset = append(l.TextOffset, offset)
	if !t.HasProb { // the first of the prompt
		l.Tokens = append(l.Tokens, tokenKey(texts.bytes(t.ID)))
		l.TokenLogprobs = append(l.TokenLogprobs, nil)
		l.TopLogprobs = append(l.TopLogprobs, nil)
		return
	}
	name := ""
	var top topLogprobs
	taken := map[string]bool{}
	for _, entry := range t.Top {
		b := texts.bytes(entry.ID)
		key := tokenKey(b)
		if taken[key] {
			key = spelled(b) // another token with the same text
		}
		if entry.ID == t.ID {
			name = key
		}
		if !taken[key] {
			top = append(top, topEntry{key, jsonFloat(entry.Logprob)})
		}
		taken[key] = true
	}
	logprob := jsonFloat(t.Logprob)
	l.Tokens = append(l.Tokens, name)
	l.TokenLogprobs = append(l.TokenLogprobs, &logprob)
	l.TopLogprobs = append(l.TopLogprobs, top)
}

// tokenKey names a token by its text, or by its bytes if they are no text.
func tokenKey(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return spelled(b)
}

func spelled(b []byte) string {
	var s strings.Builder
	s.WriteString("bytes:")
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}

// characters counts the code points that begin in b, so that the pieces of one
// count once.
func characters(b []byte) int {
	n := 0
	for _, c := range b {
		if c&0xC0 != 0x80 {
			n++
		}
	}
	return n
}
