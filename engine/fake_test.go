package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"latent/device"
	"latent/model"
	"latent/pathway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pagedModel is a model whose logits are a function of the tokens up to a row,
// read back through the page table: a wrong page, slot, prefix or position
// gives other tokens. It also checks what a model relies on.
type pagedModel struct {
	vocab int
	slots []int32 // by slot: the token stored there, −1 if none
	err   error   // returned by the next Forward
	steps int
	// before, if not nil, is called at the start of Forward.
	before func(b *model.Batch)
	logits []float32
	ids    []int32
	drawn  int // steps whose tokens it chose itself
}

func newPagedModel(vocab, pages int) *pagedModel {
	return &pagedModel{vocab: vocab, slots: slices.Repeat([]int32{-1}, pages*device.PageTokens)}
}

func (m *pagedModel) Forward(b *model.Batch, _ *model.Trace) ([]float32, error) {
	if b.Meanwhile != nil {
		b.Meanwhile()
	}
	if m.before != nil {
		m.before(b)
	}
	m.steps++
	if m.err != nil {
		return nil, m.err
	}
	if err := m.store(b); err != nil {
		return nil, err
	}
	m.logits = m.logits[:0]
	seq, history := 0, []int32(nil)
	for _, r := range b.LogitRows {
		for int(r) >= b.Step.Seqs[seq].Row+b.Step.Seqs[seq].Rows {
			seq++
		}
		q := b.Step.Seqs[seq]
		history = history[:0]
		for p := range q.Prefix + int(r) - q.Row + 1 {
			history = append(history, m.slots[int(q.Pages[p/device.PageTokens])*device.PageTokens+p%device.PageTokens])
		}
		m.logits = append(m.logits, fakeLogits(history, m.vocab)...)
	}
	if m.draw(b) {
		m.drawn++
		return nil, nil
	}
	return m.logits, nil
}

// draw chooses the tokens of the batch where that is simple: the most likely
// ones, or draws from the whole distribution. Other batches get logits.
func (m *pagedModel) draw(b *model.Batch) bool {
	if b.Draws == nil || len(b.Draws) != len(b.LogitRows) {
		return false
	}
	m.ids = m.ids[:0]
	for i, d := range b.Draws {
		if d.Temperature > 0 && (d.TopP < 1 || d.TopK > 0 || d.MinP > 0) {
			return false
		}
		row := m.logits[i*m.vocab:][:d.Vocabulary]
		best := slices.Index(row, slices.Max(row))
		if d.Temperature > 0 {
			best = inverse(row, d.Temperature, d.Uniform)
		}
		m.ids = append(m.ids, int32(best))
	}
	b.IDs = m.ids
	return true
}

// inverse is the inverse of the distribution function of softmax(row/t), at u.
func inverse(row []float32, t, u float64) int {
	total := 0.0
	for _, x := range row {
		total += math.Exp(float64(x) / t)
	}
	for i, x := range row {
		if u -= math.Exp(float64(x)/t) / total; u < 0 {
			return i
		}
	}
	return len(row) - 1
}

// store writes the step's tokens and checks its geometry.
func (m *pagedModel) store(b *model.Batch) error {
	s := &b.Step
	if len(s.Positions) != len(s.Tokens) || len(s.Slots) != len(s.Tokens) || len(b.Extents) != len(s.Seqs) {
		return fmt.Errorf("step of %d tokens, %d positions, %d slots, %d sequences, %d extents",
			len(s.Tokens), len(s.Positions), len(s.Slots), len(s.Seqs), len(b.Extents))
	}
	if !slices.IsSorted(b.LogitRows) {
		return fmt.Errorf("logit rows %v", b.LogitRows)
	}
	row := 0
	writer := map[int32]int{} // by page: the sequence that writes to it
	for i, q := range s.Seqs {
		x := b.Extents[i]
		if q.Row != row || q.Rows < 1 || x.Prefix != q.Prefix || x.New != q.Rows {
			return fmt.Errorf("sequence %d is %+v, extent %+v, want row %d", i, q, x, row)
		}
		for r := range q.Rows {
			p := q.Prefix + r
			page := q.Pages[p/device.PageTokens]
			if int(s.Positions[row]) != p || s.Slots[row] != page*device.PageTokens+int32(p%device.PageTokens) {
				return fmt.Errorf("row %d of sequence %d: position %d, slot %d, page %d", r, i, s.Positions[row], s.Slots[row], page)
			}
			m.slots[s.Slots[row]] = s.Tokens[row]
			writer[page] = i
			row++
		}
	}
	for i, q := range s.Seqs {
		for _, page := range q.Pages {
			if w, ok := writer[page]; ok && w != i {
				return fmt.Errorf("sequence %d writes to page %d of sequence %d", w, page, i)
			}
		}
	}
	rows := 0
	for _, seg := range b.Plan.Segments {
		rows += seg.Rows()
	}
	if row != len(s.Tokens) || rows != row {
		return fmt.Errorf("%d rows, %d in sequences, %d planned", len(s.Tokens), row, rows)
	}
	return nil
}

// fakeLogits returns the logits that pagedModel computes behind history.
func fakeLogits(history []int32, vocab int) []float32 {
	hash := uint64(14695981039346656037) // FNV-1a, a token at a time
	for _, id := range history {
		hash = (hash ^ uint64(uint32(id))) * 1099511628211
	}
	random := rand.New(rand.NewPCG(hash, 0))
	logits := make([]float32, vocab)
	for i := range logits {
		logits[i] = 4 * random.Float32()
	}
	return logits
}

// The fake vocabulary: letters, of which eos is the model's stop id, and a token
// whose text comes with the next one or at the end.
const (
	fakeVocab = 30
	fakeEOS   = 26
	fakeHeld  = 27
)

// fakeText is the text of tokens, computed at once.
func fakeText(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		switch {
		case id < fakeEOS:
			b.WriteByte(byte('a' + id))
		case id == fakeEOS:
			b.WriteString("<eos>")
		case id == fakeHeld:
			b.WriteString("_")
		default:
			b.WriteString([]string{"é", "\u4e16\u754c"}[id-28])
		}
	}
	return b.String()
}

// fakeDetok is a detokenizer that holds text back.
type fakeDetok struct{ held string }

func (d *fakeDetok) Add(id int32) string {
	text, own := d.held, fakeText([]int32{id})
	if id == fakeHeld {
		d.held = own
		return text
	}
	d.held = ""
	return text + own
}

func (d *fakeDetok) Flush() string {
	text := d.held
	d.held = ""
	return text
}

// testPlanner is a real planner for a model with index_topk 100.
func testPlanner(t testing.TB) *pathway.Planner {
	t.Helper()
	g := pathway.Geometry{
		Heads: 16, Nope: 128, Rope: 64, Value: 128, Latent: 512, QueryRank: 1536,
		IndexHeads: 64, IndexDim: 128, TopK: 100, RecordSize: 1152, IndexedShare: 1,
	}
	p, err := pathway.New(pathway.Config{
		Geometry: g, Calibration: pathway.Estimate(g, 1e12, 1e11),
		WorkspaceBytes: 1 << 30, KVBytesPerKey: 16 * 320 * 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// testConfig is a small engine on a paged model.
func testConfig(t testing.TB, pages int) (Config, *pagedModel) {
	m := newPagedModel(fakeVocab, pages)
	return Config{
		Model:       m,
		Planner:     testPlanner(t),
		Detokenizer: func(bool) Detokenizer { return new(fakeDetok) },
		Vocab:       fakeVocab,
		StopIDs:     []int32{fakeEOS},
		Pages:       pages,
		MaxContext:  1 << 20,
	}, m
}

// checkRest checks an engine at rest: nothing lives, every page is free or in
// the tree.
func checkRest(t testing.TB, e *Engine) {
	t.Helper()
	if err := e.cache.Check(); err != nil {
		t.Error(err)
	}
	if s := e.cache.Stats(); s.Used != 0 {
		t.Errorf("%d pages are in use at rest", s.Used)
	}
	if len(e.running)+len(e.waiting)+len(e.inbox)+len(e.live)+e.queued != 0 {
		t.Errorf("at rest: %d running, %d waiting, %d in the inbox, %d live, %d queued",
			len(e.running), len(e.waiting), len(e.inbox), len(e.live), e.queued)
	}
}

// checkInvariants checks what loop.go promises between turns.
func checkInvariants(e *Engine) error {
	if err := e.cache.Check(); err != nil {
		return err
	}
	held := map[int32]bool{}
	for i, s := range e.running {
		if i > 0 && !e.running[i-1].older(s) {
			return fmt.Errorf("running: %d is out of order", i)
		}
		if s.done >= len(s.tokens) || len(s.pages)*device.PageTokens < s.done || s.finish != NotFinished {
			return fmt.Errorf("running %s/%d: %d of %d tokens computed, %d pages, finish %q",
				s.req.ID, s.index, s.done, len(s.tokens), len(s.pages), s.finish)
		}
		for _, p := range s.pages {
			held[p] = true
		}
	}
	for i, s := range e.waiting {
		if i > 0 && !e.waiting[i-1].older(s) {
			return fmt.Errorf("waiting: %d is out of order", i)
		}
		if s.done != 0 || s.pages != nil || s.finish != NotFinished {
			return fmt.Errorf("waiting %s/%d: %d tokens computed, %d pages, finish %q", s.req.ID, s.index, s.done, len(s.pages), s.finish)
		}
	}
	if used := e.cache.Stats().Used; used != len(held) {
		return fmt.Errorf("%d pages in use, %d held by sequences", used, len(held))
	}
	return nil
}
