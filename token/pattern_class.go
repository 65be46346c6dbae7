package token

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file parses what a pattern says about single characters: literals,
// brackets, escapes and properties.

// character parses what stands for one character outside brackets.
func (p *patternParser) character(fold bool) (ranges, error) {
	var set ranges
	var err error
	switch {
	case p.skip("["):
		set, err = p.bracket(0)
	case p.skip("."):
		return newRanges(span32{'\n', '\n'}).complement(), nil
	case p.skip(`\`):
		set, err = p.escape()
	case strings.IndexByte("?*+", p.text[p.at]) >= 0:
		return nil, errors.New("quantifier without anything before it")
	default:
		c := p.rune()
		set = ranges{{c, c}}
	}
	if err == nil && fold {
		set = set.folded()
	}
	return set, err
}

// bracket parses what follows "[", the closing "]" included.
func (p *patternParser) bracket(depth int) (ranges, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("brackets nested more than %d deep", maxNesting)
	}
	negate := p.skip("^")
	var whole ranges // what was before "&&"
	intersecting := false
	var spans []span32
	finish := func() {
		set := newRanges(spans...)
		if intersecting {
			set = whole.intersect(set)
		}
		whole, spans = set, nil
	}
	empty := true
	for {
		switch {
		case !p.more():
			return nil, errors.New("missing ]")
		case p.skip("]"):
			if empty {
				return nil, errors.New("empty brackets")
			}
			finish()
			if negate {
				whole = whole.complement()
			}
			return whole, nil
		case p.skip("&&"):
			finish()
			intersecting = true
		case strings.HasPrefix(p.text[p.at:], "[:"):
			return nil, errors.New("POSIX brackets are not supported")
		case p.skip("["):
			inner, err := p.bracket(depth + 1)
			if err != nil {
				return nil, err
			}
			spans = append(spans, inner...)
		default:
			set, err := p.member()
			if err != nil {
				return nil, err
			}
			if len(set) == 1 && set[0].lo == set[0].hi && p.rangeFollows() {
				p.at++ // "-"
				last, err := p.member()
				if err != nil {
					return nil, err
				}
				if len(last) != 1 || last[0].lo != last[0].hi || last[0].lo < set[0].lo {
					return nil, errors.New("range without an end, or with its ends in the wrong order")
				}
				set = ranges{{set[0].lo, last[0].hi}}
			}
			spans = append(spans, set...)
		}
		empty = false
	}
}

// rangeFollows tells whether a "-" comes next that joins two characters.
func (p *patternParser) rangeFollows() bool {
	rest := p.text[p.at:]
	return len(rest) > 1 && rest[0] == '-' && rest[1] != ']' && rest[1] != '['
}

// member parses one character or escape inside brackets.
func (p *patternParser) member() (ranges, error) {
	if p.skip(`\`) {
		return p.escape()
	}
	c := p.rune()
	return ranges{{c, c}}, nil
}

// escape parses what follows a backslash.
func (p *patternParser) escape() (ranges, error) {
	if !p.more() {
		return nil, errors.New("backslash at the end")
	}
	one := func(c rune) (ranges, error) { return ranges{{c, c}}, nil }
	complementIf := func(negate bool, set ranges) (ranges, error) {
		if negate {
			set = set.complement()
		}
		return set, nil
	}
	switch c := p.rune(); c {
	case 's', 'S':
		return complementIf(c == 'S', tableRanges(unicode.White_Space))
	case 'd', 'D':
		return complementIf(c == 'D', tableRanges(unicode.Nd))
	case 'w', 'W':
		return complementIf(c == 'W', wordRanges())
	case 'p', 'P':
		set, err := p.property()
		if err != nil {
			return nil, err
		}
		return complementIf(c == 'P', set)
	case 'r':
		return one('\r')
	case 'n':
		return one('\n')
	case 't':
		return one('\t')
	case 'f':
		return one('\f')
	case 'v':
		return one('\v')
	case 'x':
		if p.skip("{") {
			digits, _, ok := strings.Cut(p.text[p.at:], "}")
			if !ok {
				return nil, errors.New("missing }")
			}
			p.at += len(digits) + 1
			return hexRune(digits, 1, 8)
		}
		// Without braces two digits name a byte; only ASCII bytes are characters.
		set, err := p.hexDigits(2)
		if err == nil && set[0].lo >= utf8.RuneSelf {
			err = errors.New(`\x80 and above name bytes, not characters`)
		}
		return set, err
	case 'u':
		return p.hexDigits(4)
	default:
		if c >= utf8.RuneSelf || c < ' ' || strings.ContainsRune("0123456789", c) || unicode.IsLetter(c) {
			return nil, fmt.Errorf(`\%c is not supported`, c)
		}
		return one(c)
	}
}

// hexDigits parses exactly n hexadecimal digits.
func (p *patternParser) hexDigits(n int) (ranges, error) {
	if p.at+n > len(p.text) {
		return nil, errors.New("too few hexadecimal digits")
	}
	p.at += n
	return hexRune(p.text[p.at-n:p.at], n, n)
}

func hexRune(digits string, least, most int) (ranges, error) {
	if len(digits) < least || len(digits) > most {
		return nil, errors.New("wrong number of hexadecimal digits")
	}
	v := rune(0)
	for _, c := range strings.ToLower(digits) {
		d := strings.IndexRune("0123456789abcdef", c)
		if d < 0 || v > unicode.MaxRune>>4 {
			return nil, fmt.Errorf("%q is not the number of a character", digits)
		}
		v = v<<4 | rune(d)
	}
	return ranges{{v, v}}, nil
}

// property parses {Name} or {^Name} after \p: a general category, a script or
// a binary property, as the unicode package spells them.
func (p *patternParser) property() (ranges, error) {
	if !p.skip("{") {
		return nil, errors.New(`\p without {`)
	}
	name, _, ok := strings.Cut(p.text[p.at:], "}")
	if !ok {
		return nil, errors.New("missing }")
	}
	p.at += len(name) + 1
	negate := strings.HasPrefix(name, "^")
	name = strings.TrimPrefix(name, "^")
	table := unicode.Categories[name]
	if table == nil {
		table = unicode.Scripts[name]
	}
	if table == nil {
		table = unicode.Properties[name]
	}
	if table == nil {
		return nil, fmt.Errorf(`\p{%s}: no such category, script or property is known`, name)
	}
	set := tableRanges(table)
	if negate {
		set = set.complement()
	}
	return set, nil
}

// wordRanges is \w as Oniguruma has it: alphabetic characters, marks, decimal
// digits, connecting punctuation, and the superscripts and fractions of Latin-1.
func wordRanges() ranges {
	set := newRanges(span32{0xB2, 0xB3}, span32{0xB9, 0xB9}, span32{0xBC, 0xBE})
	for _, t := range []*unicode.RangeTable{unicode.L, unicode.Nl, unicode.Other_Alphabetic, unicode.M, unicode.Nd, unicode.Pc} {
		set = set.union(tableRanges(t))
	}
	return set
}
