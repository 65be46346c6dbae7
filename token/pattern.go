package token

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// The syntax is the part of Oniguruma's (the engine behind Hugging Face's
// tokenizers) that tokenizer files use:
//
//	x  .  [a-z&&[^b]]  \s \d \w \p{L} \p{Han} \x{2E80} \u2E80   one character
//	x? x* x+ x{2} x{2,} x{2,3} and x?+ x*+ x++ (possessive)      of one character
//	(?:..)  (?i:..)  (?i)..  (..)  (?>..)  (..)?                 groups
//	(?=..)  (?!..)  ^  $  \A  \z  \b  \B                         positions
//	a|b                                                          the first that fits
//
// Groups repeat at most once, lazy quantifiers, look-behind, captures and
// back references are refused: with them a match could take exponential time.
const (
	maxPattern = 16 << 10 // bytes of a pattern
	maxNesting = 64       // brackets within brackets
	maxRepeat  = 100000   // Oniguruma's own limit
)

// op is what an instruction does.
type op uint8

const (
	opAccept     op = iota // the match ends here
	opClass                // low to high characters of a class, as many as possible
	opPossessive           // the same, never giving any back
	opAlternate            // the first of alts with which the rest matches
	opAtomic               // the first match of alts[0], never another one
	opLook                 // alts[0] matches here; negate: does not
	opLineStart            // ^
	opLineEnd              // $
	opTextStart            // \A
	opTextEnd              // \z
	opWordBorder           // \b; negate: \B
)

// instruction is a node of a compiled pattern. Instructions form a directed
// graph without cycles; they are never written after compilation.
type instruction struct {
	op        op
	class     *class
	low, high int // high < 0: no limit
	negate    bool
	alts      []*instruction // each ends in opAccept or leads to next
	next      *instruction
}

// compilePattern compiles a regular expression. The error says what is not
// supported, and where.
func compilePattern(pattern string) (*instruction, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("pattern of %d bytes is longer than %d", len(pattern), maxPattern)
	}
	if !utf8.ValidString(pattern) {
		return nil, errors.New("pattern is not valid UTF-8")
	}
	p := &patternParser{text: pattern}
	node, err := p.alternation(false, 0)
	if err == nil && p.at < len(p.text) {
		err = errors.New("unmatched )")
	}
	if err != nil {
		return nil, fmt.Errorf("pattern %q, at byte %d: %w", pattern, p.at, err)
	}
	return link(node, &instruction{op: opAccept}), nil
}

// node is a parsed pattern, before its parts know what follows them.
type node struct {
	op        op
	set       ranges
	low, high int
	negate    bool
	branches  [][]node // opAlternate, opAtomic, opLook
}

// link turns a node sequence's alternatives into instructions that lead to next.
func link(branches [][]node, next *instruction) *instruction {
	if len(branches) == 1 {
		return linkSequence(branches[0], next)
	}
	alt := &instruction{op: opAlternate}
	for _, b := range branches {
		alt.alts = append(alt.alts, linkSequence(b, next))
	}
	return alt
}

func linkSequence(seq []node, next *instruction) *instruction {
	for i := len(seq) - 1; i >= 0; i-- {
		n := &seq[i]
		switch n.op {
		case opAlternate:
			next = link(n.branches, next)
			continue
		case opAtomic, opLook:
			next = &instruction{op: n.op, negate: n.negate, next: next,
				alts: []*instruction{link(n.branches, &instruction{op: opAccept})}}
			continue
		}
		in := &instruction{op: n.op, low: n.low, high: n.high, negate: n.negate, next: next}
		switch n.op {
		case opClass, opPossessive:
			in.class = n.set.compile()
		case opWordBorder:
			in.class = wordRanges().compile()
		}
		next = in
	}
	return next
}

type patternParser struct {
	text string
	at   int
}

func (p *patternParser) more() bool { return p.at < len(p.text) }

// skip tells whether s comes next, and moves past it if so.
func (p *patternParser) skip(s string) bool {
	if strings.HasPrefix(p.text[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *patternParser) rune() rune {
	r, n := utf8.DecodeRuneInString(p.text[p.at:])
	p.at += n
	return r
}

// alternation parses a|b|c up to the end or an unconsumed ")".
func (p *patternParser) alternation(fold bool, depth int) ([][]node, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("groups nested more than %d deep", maxNesting)
	}
	branches := [][]node{nil}
	for p.more() && p.text[p.at] != ')' {
		if p.skip("|") {
			branches = append(branches, nil)
			continue
		}
		if p.skip("(?i)") { // holds until the end of the group, alternatives included
			rest, err := p.alternation(true, depth+1)
			if err != nil {
				return nil, err
			}
			last := &branches[len(branches)-1]
			*last = append(*last, node{op: opAlternate, branches: rest})
			continue
		}
		n, err := p.item(fold, depth)
		if err != nil {
			return nil, err
		}
		last := &branches[len(branches)-1]
		*last = append(*last, n)
	}
	return branches, nil
}

// item parses one character, group or position and its quantifier.
func (p *patternParser) item(fold bool, depth int) (node, error) {
	if p.skip("(") {
		return p.group(fold, depth)
	}
	for _, pos := range []struct {
		text string
		node node
	}{
		{"^", node{op: opLineStart}}, {"$", node{op: opLineEnd}},
		{`\A`, node{op: opTextStart}}, {`\z`, node{op: opTextEnd}},
		{`\b`, node{op: opWordBorder}}, {`\B`, node{op: opWordBorder, negate: true}},
	} {
		if p.skip(pos.text) {
			if _, _, _, ok, err := p.quantifier(); ok || err != nil {
				return node{}, errors.Join(err, fmt.Errorf("quantifier after %s is not supported", pos.text))
			}
			return pos.node, nil
		}
	}
	set, err := p.character(fold)
	if err != nil {
		return node{}, err
	}
	n := node{op: opClass, set: set, low: 1, high: 1}
	low, high, possessive, ok, err := p.quantifier()
	if ok {
		n.low, n.high = low, high
		if possessive {
			n.op = opPossessive
		}
	}
	return n, err
}

// group parses what follows "(".
func (p *patternParser) group(fold bool, depth int) (node, error) {
	n := node{op: opAlternate}
	look := false
	switch {
	case p.skip("?:"):
	case p.skip("?i:"):
		fold = true
	case p.skip("?-i:"):
		fold = false
	case p.skip("?>"):
		n.op = opAtomic
	case p.skip("?="):
		n.op, look = opLook, true
	case p.skip("?!"):
		n.op, n.negate, look = opLook, true, true
	case p.skip("?"):
		return node{}, errors.New("this kind of (? group is not supported")
	}
	branches, err := p.alternation(fold, depth+1)
	if err != nil {
		return node{}, err
	}
	if !p.skip(")") {
		return node{}, errors.New("missing )")
	}
	n.branches = branches
	low, high, possessive, ok, err := p.quantifier()
	switch {
	case err != nil:
		return node{}, err
	case !ok:
		return n, nil
	case look:
		return node{}, errors.New("quantifier after a look-ahead is not supported")
	case low == 1 && high == 1 && !possessive:
		return n, nil
	case low != 0 || high != 1:
		return node{}, errors.New("groups that repeat are not supported")
	}
	optional := node{op: opAlternate, branches: [][]node{{n}, nil}}
	if possessive {
		optional = node{op: opAtomic, branches: [][]node{{optional}}}
	}
	return optional, nil
}

// quantifier parses ?, *, +, {n}, {n,} or {n,m}, with a possessive "+" after
// the first three; ok tells whether there was one.
func (p *patternParser) quantifier() (low, high int, possessive, ok bool, err error) {
	interval := false
	switch {
	case p.skip("?"):
		low, high = 0, 1
	case p.skip("*"):
		low, high = 0, -1
	case p.skip("+"):
		low, high = 1, -1
	case p.more() && p.text[p.at] == '{':
		if low, high, err = p.interval(); err != nil {
			return 0, 0, false, false, err
		}
		interval = true
	default:
		return 0, 0, false, false, nil
	}
	switch {
	case p.skip("?"):
		return 0, 0, false, false, errors.New("lazy quantifiers are not supported")
	case !interval && p.skip("+"):
		possessive = true
	}
	if p.more() && strings.IndexByte("?*+{", p.text[p.at]) >= 0 {
		return 0, 0, false, false, errors.New("quantifier after a quantifier is not supported")
	}
	return low, high, possessive, true, nil
}

// interval parses {n}, {n,}, {,m} or {n,m}.
func (p *patternParser) interval() (low, high int, err error) {
	body, _, ok := strings.Cut(p.text[p.at+1:], "}")
	if !ok {
		return 0, 0, errors.New("missing }")
	}
	number := func(s string, empty int) (int, error) {
		if s == "" {
			return empty, nil
		}
		v := 0
		for _, c := range s {
			if c < '0' || c > '9' {
				return 0, fmt.Errorf("{%s} is not a repetition", body)
			}
			if v = v*10 + int(c-'0'); v > maxRepeat {
				return 0, fmt.Errorf("{%s} repeats more than %d times", body, maxRepeat)
			}
		}
		return v, nil
	}
	first, last, two := strings.Cut(body, ",")
	if !two {
		last = first
	}
	if first == "" && last == "" {
		return 0, 0, fmt.Errorf("{%s} is not a repetition", body)
	}
	if low, err = number(first, 0); err != nil {
		return 0, 0, err
	}
	if high, err = number(last, -1); err != nil {
		return 0, 0, err
	}
	if high >= 0 && low > high {
		return 0, 0, fmt.Errorf("{%s} is an empty repetition", body)
	}
	p.at += len(body) + 2
	return low, high, nil
}
