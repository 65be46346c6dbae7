package token

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

var oracleDir = flag.String("oracle", "testdata", "folder of the fixtures that testdata/oracle.py wrote")

// families are the tokenizers that testdata/oracle.py writes fixtures for.
var families = []string{"demo", "v3", "glm", "v2", "kimi", "gpt2", "odd"}

// loadFamily loads the tokenizer of a fixture.
func loadFamily(t testing.TB, name string) *Tokenizer {
	t.Helper()
	path := filepath.Join("testdata", name+".tokenizer.json")
	if name == "demo" {
		path = "../demo/hf/tokenizer.json"
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Load(data)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return tok
}

// eachLine decodes every line of a gzipped file of JSON lines.
func eachLine[T any](t *testing.T, name string, do func(T)) {
	t.Helper()
	f, err := os.Open(filepath.Join(*oracleDir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	count := 0
	for ; lines.Scan(); count++ {
		var row T
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		do(row)
	}
	if lines.Err() != nil || count < 50 {
		t.Fatalf("%s: %d lines, %v", name, count, lines.Err())
	}
}

// cut gives the pieces that end at the given places.
func cut(text string, ends []int) []string {
	var out []string
	start := 0
	for _, end := range ends {
		out = append(out, text[start:end])
		start = end
	}
	return out
}

// TestEncodeAgainstOracle compares pieces and ids with those of Hugging Face's
// tokenizers, for awkward and for random texts.
func TestEncodeAgainstOracle(t *testing.T) {
	type row struct {
		Text             string
		Ends, IDs, Plain []int
	}
	for _, name := range families {
		t.Run(name, func(t *testing.T) {
			tok := loadFamily(t, name)
			failures := 0
			eachLine(t, name+".jsonl.gz", func(r row) {
				if failures > 10 {
					return
				}
				if ends, _ := pieces(tok.stages, r.Text, nil, nil); !slices.Equal(ends, r.Ends) {
					failures++
					t.Errorf("pieces of %q:\n got %q\nwant %q", r.Text, cut(r.Text, ends), cut(r.Text, r.Ends))
				}
				if got := tok.EncodePlain(r.Text); !slices.Equal(got, r.Plain) {
					failures++
					t.Errorf("EncodePlain(%q):\n got %v\nwant %v", r.Text, got, r.Plain)
				}
				if got := tok.Encode(r.Text); !slices.Equal(got, r.IDs) {
					failures++
					t.Errorf("Encode(%q):\n got %v\nwant %v", r.Text, got, r.IDs)
				}
			})
		})
	}
}

// TestDecodeAgainstOracle compares the text of random ids, many of which cut
// characters apart.
func TestDecodeAgainstOracle(t *testing.T) {
	type row struct {
		IDs  []int
		Text string
	}
	for _, name := range families {
		t.Run(name, func(t *testing.T) {
			tok := loadFamily(t, name)
			eachLine(t, name+".decode.jsonl.gz", func(r row) {
				if got := tok.Decode(r.IDs, false); got != r.Text {
					t.Errorf("Decode(%v) = %q, want %q", r.IDs, got, r.Text)
				}
			})
		})
	}
}
