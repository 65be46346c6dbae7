package chat

import (
	"strings"
	"unicode/utf8"
)

// ParserOptions say what a completion answers.
type ParserOptions struct {
	// Reasoning tells whether the completion begins as reasoning; see
	// [Prompt.Reasoning].
	Reasoning bool
	// Tools are those that the model was shown. Their schemas decide how
	// arguments that are not strings are read.
	Tools []Tool
	// NoToolCalls leaves tool calls in the content, as text.
	NoToolCalls bool
	// NewID makes the id of a tool call, such as "call_" and 24 random
	// characters. It is called once a call, in order; nil leaves ids empty.
	NewID func() string
}

// Delta is a piece of a completion: reasoning, or content, or a part of a tool
// call.
type Delta struct {
	Reasoning string
	Content   string
	ToolCall  *ToolCallDelta
}

// ToolCallDelta is a part of a tool call. The first one of a call has its ID
// and its Name and no arguments; the Arguments of those that follow make a JSON
// object when joined.
type ToolCallDelta struct {
	Index     int
	ID        string
	Name      string
	Arguments string
}

// Add appends a delta to m, an assistant's message. Adding all deltas of a
// completion gives the message that an answer without streaming holds.
func (m *Message) Add(d Delta) {
	m.ReasoningContent += d.Reasoning
	m.Content += d.Content
	if d.ToolCall == nil {
		return
	}
	for len(m.ToolCalls) <= d.ToolCall.Index {
		m.ToolCalls = append(m.ToolCalls, ToolCall{})
	}
	call := &m.ToolCalls[d.ToolCall.Index]
	call.ID += d.ToolCall.ID
	call.Name += d.ToolCall.Name
	call.Arguments += d.ToolCall.Arguments
}

// Parser splits a completion in the DeepSeek-V3.2 encoding into reasoning,
// content and tool calls, while it is generated. How the text is cut into
// pieces makes no difference to what comes out in total.
//
// The parser holds back what might still become markup, and forgives what
// models get wrong. What looks like tool calls but is not becomes content, as
// it stands, as long as no call has begun; once one has, what stands between
// its tags and does not belong there becomes content, and the call goes on. The
// joined arguments of a call are always valid JSON.
//
// A Parser is used by one goroutine at a time.
type Parser struct {
	opts  ParserOptions
	state state
	buf   string // text not yet used
	// held is text used but not yet shown: from the blank line before a block of
	// calls up to the first call, or white space behind a block.
	held  string
	calls int
	call  *call // the call being read, nil outside of one
	// blockCalls counts the calls that began in the current block.
	blockCalls int

	out []Delta
}

// state is what the text to come is part of.
type state uint8

const (
	inReasoning state = iota
	inContent
	afterBlock  // content, but white space is held back
	inBlock     // between invoke tags
	inInvoke    // between parameter tags
	inParameter // in a value
)

// NewParser returns a parser for one completion.
func NewParser(opts ParserOptions) *Parser {
	p := &Parser{opts: opts, state: inContent}
	if opts.Reasoning {
		p.state = inReasoning
	}
	return p
}

// ToolCalls returns how many tool calls have begun.
func (p *Parser) ToolCalls() int { return p.calls }

// Push takes the next piece of text and returns what has become certain. The
// result is valid until the next call.
func (p *Parser) Push(text string) []Delta {
	p.out = p.out[:0]
	p.buf += text
	// A character that is still incomplete waits, so that no delta ends in the
	// middle of one.
	tail := p.buf[len(p.buf)-incompleteUTF8(p.buf):]
	p.buf = validUTF8(p.buf[:len(p.buf)-len(tail)])
	p.run(false)
	p.buf += tail
	return p.out
}

// Finish takes the end of the completion. With truncated, the model did not
// stop by itself but ran into a limit: tags that were cut off are dropped, where
// otherwise they become content. A call that has begun is closed in both cases.
func (p *Parser) Finish(truncated bool) []Delta {
	p.out = p.out[:0]
	p.buf = validUTF8(p.buf)
	p.run(true)
	switch p.state {
	case inBlock:
		if !truncated && (p.blockCalls == 0 || strings.TrimSpace(p.buf) != "") {
			p.content(p.held + p.buf)
		}
	case inInvoke:
		if !truncated && strings.TrimSpace(p.buf) != "" {
			p.content(p.held + p.buf)
		}
		p.arguments(p.call.close())
	case inParameter:
		p.arguments(p.call.cut(p.buf, truncated))
		p.arguments(p.call.close())
	}
	// White space held back behind a block is nobody's content.
	p.buf, p.held, p.call, p.state = "", "", nil, inContent
	return p.out
}

// run uses up buf as far as it is certain; at the end of the completion
// everything is.
func (p *Parser) run(end bool) {
	for {
		before, was := len(p.buf), p.state
		switch p.state {
		case inReasoning:
			p.runReasoning(end)
		case inContent, afterBlock:
			p.runContent(end)
		case inBlock:
			p.runBlock()
		case inInvoke:
			p.runInvoke()
		case inParameter:
			p.runParameter(end)
		}
		if len(p.buf) == before && p.state == was {
			return
		}
	}
}

func (p *Parser) runReasoning(end bool) {
	text, found := p.until(thinkClose, end)
	p.reasoning(text)
	if found {
		p.state = inContent
	}
}

func (p *Parser) runContent(end bool) {
	if p.opts.NoToolCalls {
		p.content(p.buf)
		p.buf = ""
		return
	}
	if p.state == afterBlock {
		text := strings.TrimLeft(p.buf, " \t\r\n")
		p.held += p.buf[:len(p.buf)-len(text)]
		p.buf = text
		switch {
		case text == "":
			return
		case strings.HasPrefix(text, callsOpen):
			p.held, p.buf = "", text[len(callsOpen):]
			p.beginBlock(callsOpen)
			return
		case !end && strings.HasPrefix(callsOpen, text):
			return
		}
		// Text goes on after the block.
		p.state, p.buf, p.held = inContent, p.held+text, ""
	}
	i := strings.Index(p.buf, callsOpen)
	if i < 0 {
		hold := 0
		if !end {
			hold = max(heldBack(p.buf, "\n\n"+callsOpen), heldBack(p.buf, callsOpen))
		}
		p.content(p.buf[:len(p.buf)-hold])
		p.buf = p.buf[len(p.buf)-hold:]
		return
	}
	before := strings.TrimSuffix(p.buf[:i], "\n\n")
	mark := p.buf[len(before) : i+len(callsOpen)]
	p.content(before)
	p.buf = p.buf[i+len(callsOpen):]
	p.beginBlock(mark)
}

// beginBlock enters a block of calls; mark is what becomes content should it
// turn out not to be one.
func (p *Parser) beginBlock(mark string) {
	p.state, p.held, p.blockCalls = inBlock, mark, 0
}

// runBlock reads up to the next invoke tag or the end of the block.
func (p *Parser) runBlock() {
	p.holdSpace()
	switch t, n := parseTag(p.buf, invokeOpen, callsClose); {
	case n < 0:
		return // to be continued
	case n > 0 && t.closing && p.blockCalls > 0:
		p.buf, p.held, p.state = p.buf[n:], "", afterBlock
		return
	case n > 0 && !t.closing && t.name != "":
		p.buf, p.held, p.state = p.buf[n:], "", inInvoke
		p.begin(t.name)
		return
	}
	if p.blockCalls > 0 {
		p.stray()
		return
	}
	// Not a block of calls after all.
	p.content(p.held)
	p.held, p.state = "", inContent
}

// runInvoke reads up to the next parameter tag or the end of the call.
func (p *Parser) runInvoke() {
	p.holdSpace()
	switch t, n := parseTag(p.buf, parameterOpen, invokeClose); {
	case n < 0:
		return
	case n > 0 && t.closing:
		p.buf, p.held, p.state = p.buf[n:], "", inBlock
		p.arguments(p.call.close())
		p.call = nil
		return
	case n > 0 && t.named && (t.str == "true" || t.str == "false"):
		p.buf, p.held, p.state = p.buf[n:], "", inParameter
		p.arguments(p.call.open(t.name, t.str == "true"))
		return
	}
	p.stray()
}

func (p *Parser) runParameter(end bool) {
	if end && !strings.Contains(p.buf, parameterClose) {
		return // Finish closes it
	}
	text, found := p.until(parameterClose, end)
	p.arguments(p.call.value(text))
	if found {
		p.arguments(p.call.end())
		p.state = inInvoke
	}
}

// until takes text from buf up to a marker, which is removed, or as far as the
// marker cannot begin in what remains.
func (p *Parser) until(marker string, end bool) (text string, found bool) {
	if i := strings.Index(p.buf, marker); i >= 0 {
		text, p.buf = p.buf[:i], p.buf[i+len(marker):]
		return text, true
	}
	hold := 0
	if !end {
		hold = heldBack(p.buf, marker)
	}
	text, p.buf = p.buf[:len(p.buf)-hold], p.buf[len(p.buf)-hold:]
	return text, false
}

// holdSpace moves white space from buf to held.
func (p *Parser) holdSpace() {
	text := strings.TrimLeft(p.buf, " \t\r\n")
	p.held += p.buf[:len(p.buf)-len(text)]
	p.buf = text
}

// stray makes content of held and of buf up to the next place where a tag might
// begin. Buf is not empty and does not begin with a tag that is wanted.
func (p *Parser) stray() {
	const tag, closing = "<" + dsml, "</" + dsml
	n := len(p.buf)
	for _, marker := range []string{tag, closing} {
		if i := strings.Index(p.buf[1:], marker); i >= 0 {
			n = min(n, i+1)
		}
	}
	if n == len(p.buf) {
		// The first byte is settled: what begins there is not a wanted tag.
		n -= max(heldBack(p.buf[1:], tag), heldBack(p.buf[1:], closing))
	}
	// White space before a tag is between tags and says nothing.
	text := strings.TrimRight(p.buf[:n], " \t\r\n")
	p.content(p.held + text)
	p.held, p.buf = "", p.buf[len(text):]
}

// begin starts a call.
func (p *Parser) begin(name string) {
	p.call = newCall(name, p.opts.Tools)
	d := &ToolCallDelta{Index: p.calls, Name: name}
	if p.opts.NewID != nil {
		d.ID = p.opts.NewID()
	}
	p.out = append(p.out, Delta{ToolCall: d})
	p.calls++
	p.blockCalls++
}

func (p *Parser) reasoning(text string) {
	if text != "" {
		p.out = append(p.out, Delta{Reasoning: text})
	}
}

func (p *Parser) content(text string) {
	if text == "" {
		return
	}
	if n := len(p.out); n > 0 && p.out[n-1].Content != "" {
		p.out[n-1].Content += text
		return
	}
	p.out = append(p.out, Delta{Content: text})
}

// arguments emits a fragment of the arguments of the latest call.
func (p *Parser) arguments(fragment string) {
	if fragment == "" {
		return
	}
	index := p.calls - 1
	if n := len(p.out); n > 0 {
		if d := p.out[n-1].ToolCall; d != nil && d.Index == index && d.Arguments != "" {
			d.Arguments += fragment
			return
		}
	}
	p.out = append(p.out, Delta{ToolCall: &ToolCallDelta{Index: index, Arguments: fragment}})
}

// heldBack returns the length of the longest suffix of s that is a proper
// prefix of marker.
func heldBack(s, marker string) int {
	for n := min(len(s), len(marker)-1); n > 0; n-- {
		if s[len(s)-n:] == marker[:n] {
			return n
		}
	}
	return 0
}

// incompleteUTF8 returns the number of bytes at the end of s that begin a
// character but do not complete it.
func incompleteUTF8(s string) int {
	for n := 1; n <= min(len(s), utf8.UTFMax-1); n++ {
		if tail := s[len(s)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRuneInString(tail) {
				return n
			}
			return 0
		}
	}
	return 0
}
