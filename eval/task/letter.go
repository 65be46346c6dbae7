package task

import (
	"regexp"
	"strings"
	"unicode"
)

// A letter is taken from the text by these rules, which docs/evaluating.md
// repeats. Markup (bold, quotes, brackets, dollar signs, \boxed, \text) is passed
// over everywhere.
//
//  1. The last answer line decides: one with "answer" and, behind it, a colon, an
//     equals sign or "is", and then a letter ("Answer: B", "The final answer is
//     **(B)**", "Answer: option B"). What follows the letter is not read, save
//     further letters joined by a comma, slash, "and" or "or": different ones make
//     the answer invalid, as does a letter that no option has.
//  2. Else the last line, if it is a letter and nothing else, or has \boxed{B}.
//
// A small letter counts only if no word follows it ("answer: a cat" has none).
var (
	answerLine = regexp.MustCompile(`(?i)\banswer\b(?:[ \t]+(?:choice|option|letter|key))?[ \t*_\x60"'’]*(?::|=|\bis\b[ \t]*:?)`)
	markup     = regexp.MustCompile("^(?:[ \t*_`\"'“”‘’$\\\\(){}\\[\\]<>:]+|(?:boxed|text|textbf|mathbf|mathrm|mathsf|bf|rm)\\b)")
	leadWords  = regexp.MustCompile(`(?i)^(?:the\b|correct\b|right\b|best\b|final\b|option\b|choice\b|letter\b|answer\b|is\b|clearly\b|definitely\b|therefore\b)`)
	joiner     = regexp.MustCompile(`(?i)^[ \t]*(?:,[ \t]*(?:and|or)\b|,|/|&|;|\band\b|\bor\b)`)
	boxed      = regexp.MustCompile(`\\boxed\s*\{(?:\\(?:text|textbf|mathbf|mathrm)\s*\{)?\s*\(?([A-Za-z])\)?\s*\}`)
)

// letter returns the letter that an answer chooses among the first n of the
// alphabet; ok is false if it chooses none, or several.
func letter(text string, n int) (chosen string, ok bool) {
	lines := strings.FieldsFunc(text, func(c rune) bool { return c == '\n' || c == '\r' })
	for i := len(lines) - 1; i >= 0; i-- {
		spots := answerLine.FindAllStringIndex(lines[i], -1)
		for j := len(spots) - 1; j >= 0; j-- {
			if letters := leading(lines[i][spots[j][1]:]); len(letters) > 0 {
				return single(letters, n)
			}
		}
	}
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if line == "" {
			continue
		}
		if m := boxed.FindAllStringSubmatch(line, -1); m != nil {
			return single([]string{strings.ToUpper(m[len(m)-1][1])}, n)
		}
		line = skipMarkup(line)
		if c, rest := first(line); c != "" && strings.TrimRight(skipMarkup(rest), ".,; ") == "" {
			return single([]string{c}, n)
		}
		break
	}
	return "", false
}

// single returns the letter if all are the same and an option has it.
func single(letters []string, n int) (string, bool) {
	for _, c := range letters {
		if c != letters[0] || int(c[0]-'A') >= n {
			return "", false
		}
	}
	return letters[0], true
}

// leading returns the letter that stands first and those joined to it.
func leading(s string) []string {
	for {
		was := s
		s = skipMarkup(s)
		s = s[len(leadWords.FindString(s)):]
		if s == was {
			break
		}
	}
	c, rest := first(s)
	if c == "" || unlikely(s[:1], rest) {
		return nil
	}
	letters := []string{c}
	for {
		rest = skipMarkup(rest)
		join := joiner.FindString(rest)
		if join == "" {
			return letters
		}
		rest = skipMarkup(rest[len(join):])
		var next string
		raw := rest
		if next, rest = first(rest); next == "" || unlikely(raw[:1], rest) {
			return letters
		}
		letters = append(letters, next)
	}
}

// unlikely says that a letter is a word of its own: a small one, or I, with a
// word behind it.
func unlikely(c, rest string) bool {
	if c != "I" && c == strings.ToUpper(c) {
		return false
	}
	rest = strings.TrimLeft(rest, " \t")
	return rest != "" && (unicode.IsLetter([]rune(rest)[0]) || unicode.IsDigit([]rune(rest)[0]))
}

// first returns the letter at the beginning, in upper case, if no other letter
// or digit touches it.
func first(s string) (c, rest string) {
	if s == "" || !(s[0] >= 'A' && s[0] <= 'Z' || s[0] >= 'a' && s[0] <= 'z') {
		return "", s
	}
	if rest = s[1:]; rest != "" {
		next := []rune(rest)[0]
		if unicode.IsLetter(next) || unicode.IsDigit(next) || next == '\'' || next == '’' || next == '-' {
			return "", s
		}
	}
	return strings.ToUpper(s[:1]), rest
}

func skipMarkup(s string) string {
	for {
		m := markup.FindString(s)
		if m == "" {
			return s
		}
		s = s[len(m):]
	}
}
