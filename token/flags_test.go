package token

import (
	"encoding/json"
	"fmt"
	"testing"
)

// tiny returns a tokenizer of all bytes, the letters a, b and c joined as given
// by tokens and merges, and one added token.
func tiny(t *testing.T, ignoreMerges bool, tokens []string, merges []string, added string) *Tokenizer {
	t.Helper()
	vocab := map[string]int{}
	for b := range 256 {
		vocab[string(byteRune(byte(b)))] = b
	}
	for i, s := range tokens {
		vocab[s] = 256 + i
	}
	v, err := json.Marshal(vocab)
	if err != nil {
		t.Fatal(err)
	}
	m, err := json.Marshal(merges)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Load(fmt.Appendf(nil, `{"added_tokens":[{"id":500,"content":%q,"special":true,"normalized":false,"lstrip":false,"rstrip":false,"single_word":false}],
		"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":false},"decoder":{"type":"ByteLevel"},
		"model":{"type":"BPE","ignore_merges":%t,"vocab":%s,"merges":%s}}`, added, ignoreMerges, v, m))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// byteRune is the byte alphabet, restated: printable bytes stand for
// themselves, the others for U+0100 on, ascending.
func byteRune(b byte) rune {
	next := rune(0x100)
	for c := range 256 {
		printable := c >= 0x21 && c <= 0x7e || c >= 0xa1 && c <= 0xac || c >= 0xae
		switch {
		case c == int(b) && printable:
			return rune(c)
		case c == int(b):
			return next
		case !printable:
			next++
		}
	}
	panic("not a byte")
}

// TestIgnoreMerges: a token of the vocabulary that merges never build is found
// only with ignore_merges.
func TestIgnoreMerges(t *testing.T) {
	for ignore, want := range map[bool]string{false: "[256 99]", true: "[257]"} {
		tok := tiny(t, ignore, []string{"ab", "abc"}, []string{"a b"}, "<x>")
		if got := fmt.Sprint(tok.EncodePlain("abc")); got != want {
			t.Errorf("ignore_merges %t: tokens %s, want %s", ignore, got, want)
		}
	}
}

// TestMarkersAreText: markup that answers are parsed by is never skipped, even
// where the file flags it special.
func TestMarkersAreText(t *testing.T) {
	for _, marker := range []string{"｜DSML｜", "<think>", "</think>"} {
		tok := tiny(t, false, nil, nil, marker)
		if got := tok.Decode([]int{'a', 500, 'b'}, true); tok.IsSpecial(500) || got != "a"+marker+"b" {
			t.Errorf("%s: special %t, decoded without special tokens as %q", marker, tok.IsSpecial(500), got)
		}
	}
	if tok := tiny(t, false, nil, nil, "<x>"); !tok.IsSpecial(500) || tok.Decode([]int{'a', 500, 'b'}, true) != "ab" {
		t.Error("an ordinary special token is not skipped")
	}
}
