package token

import (
	"cmp"
	"slices"
)

// Span is a stretch of a text, in bytes: [Start, End).
type Span struct{ Start, End int }

// scratch is the working memory of one encoding.
type scratch struct {
	ends, spare      []int
	segments, second []segment
	long             longPiece
}

// keepScratch is the size in bytes of a text above which the working memory of
// its encoding is not kept for later ones.
const keepScratch = 1 << 20

// Encode gives the ids of a text. Added tokens, special ones included, are
// recognised wherever they are written: this is for raw prompts, whose author
// may write anything. It adds no BOS, see [Tokenizer.WithBOS].
//
// Bytes of text that are not UTF-8 are encoded as they are.
func (t *Tokenizer) Encode(text string) []int {
	return t.EncodeSpans(text, []Span{{0, len(text)}})
}

// EncodePlain gives the ids of a text in which added tokens are ordinary text.
func (t *Tokenizer) EncodePlain(text string) []int { return t.EncodeSpans(text, nil) }

// EncodeSpans gives the ids of a text in which added tokens are recognised
// only where they lie wholly within one of the allowed spans; touching spans
// count as one. A prompt encoder allows the markup that it writes itself, so
// that what a user or a tool says cannot forge it.
//
// The spans decide nothing else: the text between the recognised tokens is cut
// into pieces as a whole, because pieces reach over the border between markup
// and content. Spans may come in any order; parts outside the text are ignored.
func (t *Tokenizer) EncodeSpans(text string, allowed []Span) []int {
	sc, _ := t.scratch.Get().(*scratch)
	if sc == nil {
		sc = new(scratch)
	}
	allowed = normalizeSpans(allowed, len(text))
	sc.segments = t.raw.split(text, 0, len(text), allowed, sc.segments[:0])
	if len(t.normalized.tokens) > 0 {
		sc.second = sc.second[:0]
		for _, s := range sc.segments {
			if s.id >= 0 {
				sc.second = append(sc.second, s)
			} else {
				sc.second = t.normalized.split(text, s.start, s.end, allowed, sc.second)
			}
		}
		sc.segments, sc.second = sc.second, sc.segments
	}
	ids := make([]int, 0, len(text)/3+8)
	for _, s := range sc.segments {
		if s.id >= 0 {
			ids = append(ids, int(s.id))
			continue
		}
		stretch := text[s.start:s.end]
		sc.ends, sc.spare = pieces(t.stages, stretch, sc.ends, sc.spare)
		start := 0
		for _, end := range sc.ends {
			ids = t.model.appendPiece(ids, stretch[start:end], &sc.long)
			start = end
		}
	}
	if len(text) <= keepScratch {
		t.scratch.Put(sc)
	}
	return ids
}

// normalizeSpans sorts spans, joins those that touch, and clips them to [0, n).
func normalizeSpans(spans []Span, n int) []Span {
	var out []Span
	sorted := slices.SortedFunc(slices.Values(spans), func(a, b Span) int { return cmp.Compare(a.Start, b.Start) })
	for _, s := range sorted {
		s.Start, s.End = max(s.Start, 0), min(s.End, n)
		switch last := len(out) - 1; {
		case s.Start >= s.End:
		case last >= 0 && s.Start <= out[last].End:
			out[last].End = max(out[last].End, s.End)
		default:
			out = append(out, s)
		}
	}
	return out
}
