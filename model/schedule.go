package model

import (
	"latent/device"
	"latent/pathway"
)

// schedule is a batch's plan in the terms of the device's operations. It is
// the same for every layer and is made once per batch.
type schedule struct {
	// score lists, in chunks bounded by ScoreBytes, the rows that need a
	// selection, and into which form it goes.
	score []scoreChunk
	// maskRows and indexRows count the rows of the two selections.
	maskRows, indexRows int
	context             int // longest context among selecting rows
	scoreRows           int // rows in score
	widest              int // rows x columns of the largest chunk, as elements of the scores

	waves   []wave
	absorb  [][]device.Run // the MLA family, in chunks bounded by AbsorbBytes
	widestA int            // rows of the largest absorb chunk
}

// scoreChunk is a set of runs whose index scores are computed together.
type scoreChunk struct {
	form    device.SelectionForm
	from    int // first row among all scored rows
	columns int // longest context in the chunk
	runs    []device.Run
}

// wave is one expansion of keys and the MHA over them.
type wave struct {
	keys   int
	ranges []device.KeyRange
	first  []device.Run // runs over the first keys of their sequence: written to the output
	later  []device.Run // runs over later key chunks: merged into the output
}

func (s *schedule) reset() {
	*s = schedule{score: s.score[:0], waves: s.waves[:0], absorb: s.absorb[:0]}
}

// build fills s from the batch's plan.
func (s *schedule) build(b *Batch, o Options, absorbRowBytes int64) {
	s.reset()
	plan := b.Plan
	for i := range plan.Segments {
		seg := &plan.Segments[i]
		run := segmentRun(b, seg)
		if seg.Pathway.Selects() {
			run.Sel = s.addScore(run, seg.Pathway, o.ScoreBytes)
		}
		if !seg.Pathway.Expanded() {
			s.addAbsorb(run, max(1, int(o.AbsorbBytes/absorbRowBytes)))
		}
	}
	for i := range plan.Waves {
		s.addWave(b, &plan.Waves[i])
	}
}

// segmentRun returns the rows of a segment with all their keys and no
// selection.
func segmentRun(b *Batch, seg *pathway.Segment) device.Run {
	q := b.Step.Seqs[seg.Extent]
	return device.Run{
		Seq: seg.Extent, Row: q.Row + seg.From, Rows: seg.Rows(),
		Pos: q.Prefix + seg.From, KeyTo: q.Prefix + seg.To, Sel: -1,
	}
}

// addScore adds rows to be scored and returns their first row in the selection
// of the pathway's form.
func (s *schedule) addScore(run device.Run, p pathway.Pathway, bound int64) int {
	form, next := device.SelectIndices, &s.indexRows
	if p == pathway.MHAMasked {
		form, next = device.SelectMask, &s.maskRows
	}
	first := *next
	s.context = max(s.context, run.KeyTo)
	for run.Rows > 0 {
		part := run
		part.Rows = min(run.Rows, pathway.ScoreChunk(run.Rows, run.KeyTo, bound))
		part.KeyTo = part.Pos + part.Rows
		part.Sel = *next
		*next += part.Rows

		// Share the last chunk while its scores stay within the bound.
		var c *scoreChunk
		if n := len(s.score); n > 0 && s.score[n-1].form == form {
			last := &s.score[n-1]
			rows := s.scoreRows - last.from + part.Rows
			if int64(rows)*int64(max(last.columns, part.KeyTo))*4 <= bound {
				c = last
			}
		}
		if c == nil {
			s.score = append(s.score, scoreChunk{})
			c = &s.score[len(s.score)-1]
			c.form, c.from, c.columns = form, s.scoreRows, 0
		}
		c.runs = append(c.runs, part)
		c.columns = max(c.columns, part.KeyTo)
		s.scoreRows += part.Rows
		s.widest = max(s.widest, (s.scoreRows-c.from)*c.columns)

		run.Row += part.Rows
		run.Rows -= part.Rows
		run.Pos += part.Rows
	}
	return first
}

// addAbsorb adds rows of the MLA family, at most limit rows a chunk.
func (s *schedule) addAbsorb(run device.Run, limit int) {
	for run.Rows > 0 {
		n := len(s.absorb)
		room := 0
		if n > 0 {
			room = limit - device.RunRows(s.absorb[n-1])
		}
		if room == 0 {
			s.absorb = append(s.absorb, nil)
			n++
			room = limit
		}
		part := run
		part.Rows = min(run.Rows, room)
		part.KeyTo = part.Pos + part.Rows
		s.absorb[n-1] = append(s.absorb[n-1], part)
		s.widestA = max(s.widestA, device.RunRows(s.absorb[n-1]))
		run.Row += part.Rows
		run.Rows -= part.Rows
		run.Pos += part.Rows
		if run.Sel >= 0 {
			run.Sel += part.Rows
		}
	}
}

// addWave intersects the wave's chunks with the MHA-family segments. Rows of
// masked segments are numbered in order of segments, as addScore numbers them.
func (s *schedule) addWave(b *Batch, w *pathway.Wave) {
	out := wave{keys: w.Keys}
	maskRow := 0
	for i := range w.Chunks {
		c := &w.Chunks[i]
		out.ranges = append(out.ranges, device.KeyRange{Seq: c.Extent, From: c.From, To: c.To, Keys: c.Offset})
	}
	for i := range b.Plan.Segments {
		seg := &b.Plan.Segments[i]
		if !seg.Pathway.Expanded() {
			continue
		}
		run := segmentRun(b, seg)
		if seg.Pathway == pathway.MHAMasked {
			run.Sel = maskRow
			maskRow += run.Rows
		}
		for j := range w.Chunks {
			c := &w.Chunks[j]
			if c.Extent != seg.Extent || c.From >= run.KeyTo {
				continue
			}
			r := run
			r.KeyFrom, r.KeyTo, r.Keys = c.From, min(c.To, run.KeyTo), c.Offset
			if c.From == 0 {
				out.first = append(out.first, r)
				continue
			}
			if skip := c.From - r.Pos; skip > 0 { // rows before the chunk see none of it
				r.Row += skip
				r.Rows -= skip
				r.Pos += skip
				if r.Sel >= 0 {
					r.Sel += skip
				}
			}
			out.later = append(out.later, r)
		}
	}
	s.waves = append(s.waves, out)
}
