package token

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// A splitter cuts a text into pieces. It appends the end of every piece of s
// to ends, in order and with base added; the last one is base+len(s). An empty
// text has no pieces.
type splitter func(s string, base int, ends []int) []int

// Patterns with a hand-written scanner, as canonicalPattern spells them.
const (
	// patternV3 is the last stage of DeepSeek-V3, R1, V3.1 and V3.2.
	patternV3 = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+" +
		`|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	// patternGLM is the only stage of GLM-4.5 and later.
	patternGLM = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}` +
		`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	// patternTrailing is a stage of DeepSeek-V2: white space at the end.
	patternTrailing = `\s+$`
	// patternGPT2 is what ByteLevel uses when use_regex is true.
	patternGPT2 = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
)

// canonicalPattern writes CR and LF as escapes: files have them either way.
func canonicalPattern(pattern string) string {
	return strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(pattern)
}

// patternSplitter isolates the matches of a pattern.
func patternSplitter(pattern string) (splitter, error) {
	switch canonicalPattern(pattern) {
	case patternV3:
		return cutWith(kinds().nextV3), nil
	case patternGLM:
		return cutWith(kinds().nextGLM), nil
	case patternTrailing:
		return cutWith(kinds().nextTrailing), nil
	}
	program, err := compilePattern(pattern)
	if err != nil {
		return nil, err
	}
	if run, ok := runOf(program); ok {
		return cutWith(run.next), nil
	}
	return program.cuts, nil
}

// pieces runs the stages over s, each over every piece of the one before, and
// returns the ends of the final pieces. a and b are scratch space; the result
// is one of them, and both are returned for reuse.
func pieces(stages []splitter, s string, a, b []int) (ends, spare []int) {
	ends, spare = a[:0], b[:0]
	if s == "" {
		return ends, spare
	}
	ends = append(ends, len(s))
	for _, split := range stages {
		next, start := spare[:0], 0
		for _, end := range ends {
			next = split(s[start:end], start, next)
			start = end
		}
		ends, spare = next, ends
	}
	return ends, spare
}

// preTokenizer is the pre_tokenizer of tokenizer.json, and its parts.
type preTokenizer struct {
	Type             string
	PreTokenizers    []preTokenizer `json:"pretokenizers"`
	Pattern          json.RawMessage
	Behavior         string
	Invert           bool
	IndividualDigits bool  `json:"individual_digits"`
	AddPrefixSpace   *bool `json:"add_prefix_space"`
	UseRegex         *bool `json:"use_regex"`
}

// stages lists the splitters a pre_tokenizer asks for. byteLevel tells whether
// the ByteLevel stage, which spells bytes as characters, has been met: it must
// be there, and last, because splitters here see text, not its spelling.
func (p *preTokenizer) stages(out []splitter, byteLevel *bool) ([]splitter, error) {
	if *byteLevel {
		return nil, fmt.Errorf("pre_tokenizer: %s after ByteLevel is not supported", p.Type)
	}
	switch p.Type {
	case "Sequence":
		var err error
		for i := range p.PreTokenizers {
			if out, err = p.PreTokenizers[i].stages(out, byteLevel); err != nil {
				return nil, err
			}
		}
		return out, nil
	case "Split":
		var pattern struct{ Regex, String *string }
		switch {
		case p.Behavior != "Isolated" || p.Invert:
			return nil, fmt.Errorf("pre_tokenizer Split: only behavior Isolated without invert is supported, not %q, invert %v", p.Behavior, p.Invert)
		case json.Unmarshal(p.Pattern, &pattern) != nil || pattern.Regex == nil || pattern.String != nil:
			return nil, fmt.Errorf("pre_tokenizer Split: the pattern must be {\"Regex\": ...}, not %.80s", p.Pattern)
		}
		split, err := patternSplitter(*pattern.Regex)
		if err != nil {
			return nil, fmt.Errorf("pre_tokenizer Split: %w", err)
		}
		return append(out, split), nil
	case "Digits":
		high := -1
		if p.IndividualDigits {
			high = 1
		}
		return append(out, cutWith(newRun(nil, tableRanges(unicode.N).compile(), high).next)), nil
	case "ByteLevel":
		*byteLevel = true
		if p.AddPrefixSpace == nil || *p.AddPrefixSpace { // the format's default is true
			return nil, fmt.Errorf("pre_tokenizer ByteLevel: add_prefix_space is not supported")
		}
		if p.UseRegex == nil || *p.UseRegex {
			split, err := patternSplitter(patternGPT2)
			return append(out, split), err
		}
		return out, nil
	}
	return nil, fmt.Errorf("pre_tokenizer %q is not supported", p.Type)
}
