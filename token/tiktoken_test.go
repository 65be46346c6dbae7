package token

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// TestTiktoken compares ids with those of OpenAI's tiktoken for the same ranks
// and the Kimi pattern.
func TestTiktoken(t *testing.T) {
	ranks, err := os.ReadFile("testdata/tiktoken.model")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("testdata/tiktoken_config.json")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := LoadDir(fstest.MapFS{"tiktoken.model": {Data: ranks}, "tokenizer_config.json": {Data: config}})
	if err != nil {
		t.Fatal(err)
	}
	if bos, ok := tok.BOS(); !ok || bos != 700 || !tok.IsSpecial(702) || tok.TokenBytes(701) != nil || tok.AddBOS() {
		t.Errorf("BOS %d, special %v, 701 %q, AddBOS %v", bos, tok.IsSpecial(702), tok.TokenBytes(701), tok.AddBOS())
	}
	type row struct {
		Text       string
		IDs, Plain []int
	}
	eachLine(t, "tiktoken.jsonl.gz", func(r row) {
		if got := tok.Encode(r.Text); !slices.Equal(got, r.IDs) {
			t.Errorf("Encode(%q):\n got %v\nwant %v", r.Text, got, r.IDs)
		}
		if got := tok.EncodePlain(r.Text); !slices.Equal(got, r.Plain) {
			t.Errorf("EncodePlain(%q):\n got %v\nwant %v", r.Text, got, r.Plain)
		}
		if got := tok.Decode(r.IDs, false); got != r.Text {
			t.Errorf("Decode(%v) = %q, want %q", r.IDs, got, r.Text)
		}
	})
}

func TestTiktokenRefuses(t *testing.T) {
	ranks, err := os.ReadFile("testdata/tiktoken.model")
	if err != nil {
		t.Fatal(err)
	}
	good := string(ranks)
	for name, c := range map[string]struct{ ranks, config, want string }{
		"empty":         {"", `{}`, "byte 0x00"},
		"one field":     {good + "YWJj\n", `{}`, "not a token and its rank"},
		"base64":        {good + "?? 9\n", `{}`, "illegal base64"},
		"rank":          {good + "YWJjZGVm x\n", `{}`, "rank"},
		"range":         {good + "YWJjZGVm 9999999\n", `{}`, "not in [0"},
		"twice":         {good + "QQ== 999\n", `{}`, "there already"},
		"same id":       {good + "YWJjZGVm 0\n", `{}`, "same id"},
		"long":          {good + strings.Repeat("YWJj", 400) + " 999\n", `{}`, "too long"},
		"added id":      {good, `{"added_tokens_decoder": {"x": {"content": "y"}}}`, "not an id"},
		"added clash":   {good, `{"added_tokens_decoder": {"5": {"content": "<y>"}}}`, "same id"},
		"added twice":   {good, `{"added_tokens_decoder": {"900": {"content": "A"}}}`, "already"},
		"bos not added": {good, `{"bos_token": "[BOS]"}`, "bos_token"},
	} {
		_, err := LoadDir(fstest.MapFS{"tiktoken.model": {Data: []byte(c.ranks)}, "tokenizer_config.json": {Data: []byte(c.config)}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}
