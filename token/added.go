package token

import (
	"unicode"
	"unicode/utf8"
)

// addedToken is an entry of added_tokens in tokenizer.json.
type addedToken struct {
	ID         int32
	Content    string
	SingleWord bool `json:"single_word"` // only between characters that are not of a word
	LStrip     bool // swallows the white space before it
	RStrip     bool // swallows the white space after it
	Normalized *bool
	Special    bool
}

// addedSet finds added tokens in text: the leftmost, and of those that begin
// at one place the longest. It is a trie over bytes.
type addedSet struct {
	tokens []addedToken
	first  [256]bool // bytes with which a token begins
	nodes  []trieNode
}

type trieNode struct {
	token int // index of the token that ends here, or -1
	edges []trieEdge
}

type trieEdge struct {
	b  byte
	to int
}

func newAddedSet() *addedSet { return &addedSet{nodes: []trieNode{{token: -1}}} }

// add puts a token into the set; its content is not empty and not in it yet.
func (a *addedSet) add(tok addedToken) {
	a.first[tok.Content[0]] = true
	at := 0
	for i := range len(tok.Content) {
		to := a.nodes[at].child(tok.Content[i])
		if to < 0 {
			to = len(a.nodes)
			a.nodes[at].edges = append(a.nodes[at].edges, trieEdge{tok.Content[i], to})
			a.nodes = append(a.nodes, trieNode{token: -1})
		}
		at = to
	}
	a.nodes[at].token = len(a.tokens)
	a.tokens = append(a.tokens, tok)
}

// has tells whether content is in the set.
func (a *addedSet) has(content string) bool {
	at := 0
	for i := 0; i < len(content) && at >= 0; i++ {
		at = a.nodes[at].child(content[i])
	}
	return at >= 0 && a.nodes[at].token >= 0
}

func (n *trieNode) child(b byte) int {
	for _, e := range n.edges {
		if e.b == b {
			return e.to
		}
	}
	return -1
}

// find gives the first token in text[i:end] and where it is; nil if none.
func (a *addedSet) find(text string, i, end int) (tok *addedToken, start, stop int) {
	for ; i < end; i++ {
		if !a.first[text[i]] {
			continue
		}
		longest := -1
		for at, j := 0, i; j < end; j++ {
			if at = a.nodes[at].child(text[j]); at < 0 {
				break
			}
			if t := a.nodes[at].token; t >= 0 {
				longest, stop = t, j+1
			}
		}
		if longest >= 0 {
			return &a.tokens[longest], i, stop
		}
	}
	return nil, end, end
}

// segment is a stretch of text, or an added token found in it (id >= 0).
type segment struct {
	id         int32
	start, end int
}

// split cuts the stretch text[lo:hi] at the set's tokens that lie wholly in
// one of the allowed spans, which are sorted and do not touch. White space
// that a token swallows may lie outside of them.
func (a *addedSet) split(text string, lo, hi int, allowed []Span, out []segment) []segment {
	done := lo // everything before is in out
	for _, span := range allowed {
		end := min(span.End, hi)
		for i := max(span.Start, lo); i < end; {
			tok, start, stop := a.find(text, i, end)
			if tok == nil {
				break
			}
			i = stop
			if tok.SingleWord && (wordBefore(text[lo:start]) || wordAfter(text[stop:hi])) {
				continue
			}
			if tok.LStrip {
				for start > done {
					r, n := utf8.DecodeLastRuneInString(text[done:start])
					if !unicode.Is(unicode.White_Space, r) {
						break
					}
					start -= n
				}
			}
			if tok.RStrip {
				stop = kinds().run(text[:hi], stop, space)
			}
			if start > done {
				out = append(out, segment{-1, done, start})
			}
			out = append(out, segment{tok.ID, start, stop})
			done = max(done, stop)
		}
	}
	if done < hi {
		out = append(out, segment{-1, done, hi})
	}
	return out
}

func wordBefore(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func wordAfter(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

// isWord tells whether r is of a word: \w of Unicode technical standard 18,
// which joining characters belong to.
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc,
		unicode.Other_Alphabetic, unicode.Join_Control)
}
