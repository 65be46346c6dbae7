package token

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// stream decodes ids one by one and returns the deltas, the last from Flush.
func stream(tok *Tokenizer, ids []int, skipSpecial bool) []string {
	s := tok.NewStream(skipSpecial)
	var deltas []string
	for _, id := range ids {
		deltas = append(deltas, s.Next(id))
	}
	return append(deltas, s.Flush())
}

func TestStream(t *testing.T) {
	tok := loadFamily(t, "demo")
	bytes := func(s string) (ids []int) {
		for i := range len(s) {
			ids = append(ids, int(tok.model.bytes[s[i]]))
		}
		return ids
	}
	user, _ := tok.ID("<｜User｜>")
	think, _ := tok.ID("</think>")
	const bad = "\uFFFD"
	for _, c := range []struct {
		ids  []int
		skip bool
		want []string
	}{
		{bytes("\xF0\x9F\x91\xA9"), false, []string{"", "", "", "👩", ""}},
		{bytes("\xE2\x85\xA3"), false, []string{"", "", "Ⅳ", ""}},
		{bytes("\xF0\x9F\x91a"), false, []string{"", "", "", bad + "a", ""}},
		{bytes("\xF0\x9F"), false, []string{"", "", bad}},
		{bytes("\xC0\x80"), false, []string{bad, bad, ""}},                        // overlong: two bytes that begin nothing
		{bytes("\xE0\x80\x80"), false, []string{"", bad + bad, bad, ""}},          // overlong, seen at the second byte
		{bytes("\xED\xA0\x80"), false, []string{"", bad + bad, bad, ""}},          // a surrogate
		{bytes("\xF4\x90\x80\x80"), false, []string{"", bad + bad, bad, bad, ""}}, // above U+10FFFF
		{bytes("\xE4\xE4\xB8\xAD"), false, []string{"", bad, "", "中", ""}},
		{slices.Concat(bytes("\xE4\xB8"), []int{user}, bytes("x")), false, []string{"", "", bad + "<｜User｜>", "x", ""}},
		{slices.Concat(bytes("\xE4\xB8"), []int{user}, bytes("\xAD")), true, []string{"", "", "", "中", ""}},
		{[]int{think}, true, []string{"</think>", ""}}, // special in the file, but part of the text
		{[]int{-1, tok.Size(), 1 << 40}, false, []string{"", "", "", ""}},
	} {
		if got := stream(tok, c.ids, c.skip); !slices.Equal(got, c.want) {
			t.Errorf("stream of %v: %q, want %q", c.ids, got, c.want)
		}
		if got, want := tok.Decode(c.ids, c.skip), strings.Join(c.want, ""); got != want {
			t.Errorf("Decode(%v) = %q, want %q", c.ids, got, want)
		}
	}
}

// FuzzStream: the deltas concatenate to the one-shot decoding, each is valid
// text, and decoding agrees with the standard library's view of what is valid.
func FuzzStream(f *testing.F) {
	f.Add([]byte("\xF0\x9F\x91\xA9 ok"), true)
	f.Add([]byte("\x00\xE0\x80\x07\xED\xA0\x80\xF4\x90\x80"), false)
	tok := loadFamily(f, "demo")
	f.Fuzz(func(t *testing.T, data []byte, skip bool) {
		var ids []int
		var raw []byte
		for i, b := range data {
			id := int(tok.model.bytes[b])
			if i%5 == 4 { // whole tokens, specials and ids that do not exist among the bytes
				id = int(b) * 9
			}
			ids = append(ids, id)
			if !skip || !tok.IsSpecial(id) {
				raw = append(raw, tok.TokenBytes(id)...)
			}
		}
		want := tok.Decode(ids, skip)
		if got := strings.Join(stream(tok, ids, skip), ""); got != want {
			t.Errorf("ids %v: stream %q, at once %q", ids, got, want)
		}
		for _, delta := range stream(tok, ids, skip) {
			if !utf8.ValidString(delta) {
				t.Errorf("ids %v: delta %q", ids, delta)
			}
		}
		// Runs of U+FFFD aside, whose number is tested elsewhere, the text is
		// the standard library's.
		single := func(s string) string {
			for strings.Contains(s, "\uFFFD\uFFFD") {
				s = strings.ReplaceAll(s, "\uFFFD\uFFFD", "\uFFFD")
			}
			return s
		}
		if std := strings.ToValidUTF8(string(raw), "\uFFFD"); single(std) != single(want) {
			t.Errorf("ids %v: %q, standard library %q", ids, want, std)
		}
	})
}
