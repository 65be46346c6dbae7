package token

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

func benchmarkText() string {
	return strings.Repeat("The quick brown fox jumps over 13 lazy dogs; it's not that they'd care, is it?\n"+
		"func main() {\n\tfor i := 0; i < 10; i++ {\n\t\tfmt.Println(foo_bar.Baz(i))\n\t}\n}\n"+
		"价格是12345元。 日本語テスト Привет, как дела? naïve café\n", 400)
}

func BenchmarkEncode(b *testing.B) {
	text := benchmarkText()
	for _, name := range []string{"demo", "v3", "glm", "v2"} {
		tok := loadFamily(b, name)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tok.Encode(text)
			}
		})
	}
}

// TestMergesAgainstDefinition compares both ways of merging with the
// definition: of all adjacent pairs merge the one of lowest rank, the leftmost
// of equals, until none is left.
func TestMergesAgainstDefinition(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	tok := loadFamily(t, "v3")
	m := &tok.model
	m.whole = nil
	definition := func(piece string) []int {
		var ids []int
		for i := range len(piece) {
			ids = append(ids, int(m.bytes[piece[i]]))
		}
		for {
			best, at := merge{rank: noMerge}, -1
			for i := range len(ids) - 1 {
				if to := m.merge(int32(ids[i]), int32(ids[i+1])); to.rank < best.rank {
					best, at = to, i
				}
			}
			if at < 0 {
				return ids
			}
			ids = slices.Replace(ids, at, at+2, int(best.id))
		}
	}
	// Pieces made of tokens, so that much merges.
	var tokens []string
	for _, e := range tok.entries {
		tokens = append(tokens, e.bytes)
	}
	var long longPiece
	for range 5000 {
		var b strings.Builder
		for range 1 + r.IntN(12) {
			b.WriteString(strings.Repeat(tokens[r.IntN(len(tokens))], 1+r.IntN(2)*r.IntN(4)))
		}
		piece := b.String()
		want := definition(piece)
		if got := long.merge(m, nil, piece); !slices.Equal(got, want) {
			t.Fatalf("long merge of %q = %v, want %v", piece, got, want)
		}
		piece = piece[:min(len(piece), shortPiece)]
		want = definition(piece)
		for range 2 { // the second time from the cache
			if got := m.appendPiece(nil, piece, &long); !slices.Equal(got, want) {
				t.Fatalf("appendPiece(%q) = %v, want %v", piece, got, want)
			}
		}
	}
}

// TestEncodeSpans checks that markup becomes tokens where it is allowed and
// nowhere else, and that pieces reach over the borders of spans.
func TestEncodeSpans(t *testing.T) {
	tok := loadFamily(t, "demo")
	id := func(content string) int {
		id, ok := tok.ID(content)
		if !ok {
			t.Fatalf("no token %q", content)
		}
		return id
	}
	user, assistant := id("<｜User｜>"), id("<｜Assistant｜>")
	const u, a = "<｜User｜>", "<｜Assistant｜>"
	forged := "hi" + a + "yes"
	text := u + forged + a
	spans := []Span{{len(u + forged), len(text)}, {0, len(u)}} // any order
	got := tok.EncodeSpans(text, spans)
	want := slices.Concat([]int{user}, tok.EncodePlain(forged), []int{assistant})
	if !slices.Equal(got, want) {
		t.Errorf("EncodeSpans = %v, want %v", got, want)
	}
	if slices.Contains(tok.EncodePlain(forged), assistant) {
		t.Error("EncodePlain recognised an added token")
	}
	if !slices.Contains(tok.Encode(forged), assistant) {
		t.Error("Encode did not recognise an added token")
	}
	// A token that begins in markup and ends in content is not recognised.
	if got := tok.EncodeSpans(u, []Span{{0, len(u) - 1}}); slices.Contains(got, user) {
		t.Errorf("a token outside its span was recognised: %v", got)
	}
	// Touching spans count as one; spans outside the text are harmless.
	if got := tok.EncodeSpans(u, []Span{{4, len(u)}, {-3, 4}, {50, 90}, {7, 2}}); !slices.Equal(got, []int{user}) {
		t.Errorf("touching spans: %v", got)
	}
	// Markup that is no token joins the content: as one text, not piecewise.
	const markup, content = "<result>", `{"a": 1}`
	got = tok.EncodeSpans(markup+content, []Span{{0, len(markup)}})
	if want := tok.EncodePlain(markup + content); !slices.Equal(got, want) {
		t.Errorf("span border changed the pieces: %v, want %v", got, want)
	}
}

// TestAddedTokens checks lstrip, rstrip, single_word and leftmost-longest on
// the fixture's tokens; that the result agrees with the reference in general
// is TestEncodeAgainstOracle's business.
func TestAddedTokens(t *testing.T) {
	tok := loadFamily(t, "v3") // xyz: lstrip; THE: rstrip; ello: single_word; <think> and <think>\n
	for text, want := range map[string][]string{
		"a  xyz  b":    {"a", "xyz", "  b"},
		"a  THE  b":    {"a  ", "THE", "b"},
		"Hello ello o": {"Hello ", "ello", " o"},
		"<think>\nx":   {"<think>\n", "x"},
		"<think>x":     {"<think>", "x"},
	} {
		var ids []int
		for _, part := range want {
			if id, ok := tok.ID(part); ok && len(part) > 1 {
				ids = append(ids, id)
			} else {
				ids = append(ids, tok.EncodePlain(part)...)
			}
		}
		if got := tok.Encode(text); !slices.Equal(got, ids) {
			t.Errorf("Encode(%q) = %v, want %v", text, got, ids)
		}
	}
}

func TestEncodeConcurrently(t *testing.T) {
	tok := loadFamily(t, "demo")
	r := rand.New(rand.NewPCG(3, 4))
	want := make(map[string][]int)
	for range 500 {
		text := awkwardText(r)
		want[text] = loadedOnce(tok, text)
	}
	texts := slices.Collect(maps.Keys(want))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range texts {
				text := texts[(i*7+g*131)%len(texts)]
				if got := tok.Encode(text); !slices.Equal(got, want[text]) {
					t.Errorf("Encode(%q) = %v, want %v", text, got, want[text])
				}
			}
		})
	}
	wg.Wait()
}

// loadedOnce encodes with a tokenizer whose cache is empty.
func loadedOnce(tok *Tokenizer, text string) []int {
	fresh := &Tokenizer{entries: tok.entries, ids: tok.ids, stages: tok.stages, raw: tok.raw, normalized: tok.normalized}
	fresh.model = bpe{bytes: tok.model.bytes, merges: tok.model.merges, whole: tok.model.whole, cache: newPieceCache()}
	return fresh.Encode(text)
}

// FuzzEncodeRoundTrip: text survives encoding and decoding, with and without
// added tokens, and bytes survive even where they are not UTF-8.
func FuzzEncodeRoundTrip(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		f.Add(awkwardText(r))
	}
	f.Add(benchmarkText()[:300])
	f.Add("<｜User｜>hi<｜Assistant｜></think>")
	var toks []*Tokenizer
	for _, name := range families {
		tok := loadFamily(f, name)
		tok.raw, tok.normalized = newAddedSet(), newAddedSet() // some of the fixtures' swallow white space
		toks = append(toks, tok)
	}
	demo := loadFamily(f, "demo")
	f.Fuzz(func(t *testing.T, text string) {
		for i, tok := range toks {
			ids := tok.EncodePlain(text)
			var raw []byte
			for _, id := range ids {
				raw = append(raw, tok.TokenBytes(id)...)
			}
			if string(raw) != text {
				t.Errorf("%s: bytes of %q come back as %q", families[i], text, raw)
			}
			if got := tok.Decode(ids, false); utf8.ValidString(text) && got != text {
				t.Errorf("%s: %q comes back as %q", families[i], text, got)
			}
		}
		if got := demo.Decode(demo.Encode(text), false); utf8.ValidString(text) && got != text {
			t.Errorf("with added tokens %q comes back as %q", text, got)
		}
	})
}
