package sample

import "strings"

// StopMatcher looks for stop strings in text that comes in pieces, and holds
// back what may become one. How the text is cut makes no difference: the match
// that ends first counts, and of those that end there the longest.
type StopMatcher struct {
	stops   []string
	include bool
	held    string
	matched string
	done    bool
}

// NewStopMatcher looks for any of stops, which must not be empty strings. With
// include, the stop string is part of the text it ends.
func NewStopMatcher(stops []string, include bool) *StopMatcher {
	for _, s := range stops {
		if s == "" {
			panic("sample: empty stop string")
		}
	}
	return &StopMatcher{stops: stops, include: include}
}

// Push takes a piece of text and returns what can be shown, and whether a stop
// string was found. Text after it is dropped.
func (m *StopMatcher) Push(text string) (out string, stopped bool) {
	if m.done {
		return "", true
	}
	if len(m.stops) == 0 {
		return text, false
	}
	text = m.held + text
	from, to := -1, -1
	for _, s := range m.stops {
		i := strings.Index(text, s)
		if i < 0 {
			continue
		}
		if end := i + len(s); to < 0 || end < to || end == to && i < from {
			from, to = i, end
		}
	}
	if to >= 0 {
		m.matched, m.done, m.held = text[from:to], true, ""
		if m.include {
			return text[:to], true
		}
		return text[:from], true
	}
	hold := 0
	for _, s := range m.stops {
		for n := min(len(s)-1, len(text)); n > hold; n-- {
			if text[len(text)-n:] == s[:n] {
				hold = n
			}
		}
	}
	m.held = text[len(text)-hold:]
	return text[:len(text)-hold], false
}

// Finish returns what was held back, at the end of the text.
func (m *StopMatcher) Finish() string {
	out := m.held
	m.held = ""
	return out
}

// Matched returns the stop string that was found, "" if none.
func (m *StopMatcher) Matched() string { return m.matched }
