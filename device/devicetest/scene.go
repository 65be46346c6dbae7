package devicetest

import (
	"fmt"
	"math"
	"slices"

	"latent/device"
)

// dims are the sizes of an attention layer, named as in package device.
type dims struct {
	H, R, dn, dr, dv int
	Hi, Di           int
}

func (d dims) String() string {
	return fmt.Sprintf("H=%d R=%d dn=%d dr=%d dv=%d Hi=%d Di=%d", d.H, d.R, d.dn, d.dr, d.dv, d.Hi, d.Di)
}

// oddDims have no size that a vector unit likes, and no power of two for Di.
func oddDims() dims { return dims{H: 5, R: 40, dn: 20, dr: 12, dv: 14, Hi: 3, Di: 24} }

// realDims are the head sizes of DeepSeek-V3.2, with fewer heads.
func realDims() dims { return dims{H: 2, R: 512, dn: 128, dr: 64, dv: 128, Hi: 4, Di: 128} }

// blockDims have a latent of one and a half FP8 blocks.
func blockDims() dims { return dims{H: 3, R: 192, dn: 16, dr: 8, dv: 24, Hi: 8, Di: 32} }

// shape is a sequence of a batch: cached positions and new tokens.
type shape struct{ prefix, rows int }

// scene is a ragged batch on pages in random order.
type scene struct {
	e      *env
	step   device.Step // the new tokens
	before device.Step // the cached prefixes, stored by a step of their own
	pages  int         // size of the page pool
}

// newScene gives every sequence its pages, drawn at random from a pool with a
// few pages to spare.
func (e *env) newScene(shapes ...shape) *scene {
	s := &scene{e: e, pages: 3}
	for _, sh := range shapes {
		s.pages += pagesFor(sh.prefix + sh.rows)
	}
	pool := e.rng.Perm(s.pages)
	for _, sh := range shapes {
		n := pagesFor(sh.prefix + sh.rows)
		pages := make([]int32, n)
		for i := range pages {
			pages[i] = int32(pool[i])
		}
		pool = pool[n:]
		if sh.prefix > 0 {
			addSeq(&s.before, 0, sh.prefix, pages[:pagesFor(sh.prefix)])
		}
		addSeq(&s.step, sh.prefix, sh.rows, pages)
	}
	return s
}

func pagesFor(tokens int) int { return (tokens + device.PageTokens - 1) / device.PageTokens }

// addSeq appends a sequence with its rows, positions and slots.
func addSeq(step *device.Step, prefix, rows int, pages []int32) {
	step.Seqs = append(step.Seqs, device.Seq{Row: len(step.Tokens), Rows: rows, Prefix: prefix, Pages: pages})
	for p := prefix; p < prefix+rows; p++ {
		step.Tokens = append(step.Tokens, int32(len(step.Tokens)))
		step.Positions = append(step.Positions, int32(p))
		step.Slots = append(step.Slots, pages[p/device.PageTokens]*device.PageTokens+int32(p%device.PageTokens))
	}
}

// rows returns T.
func (s *scene) rows() int { return len(s.step.Tokens) }

// context returns the largest context of a sequence.
func (s *scene) context() int {
	n := 0
	for _, q := range s.step.Seqs {
		n = max(n, q.Context())
	}
	return n
}

// store calls put once for the step of the prefixes, if there are any, and once
// for the new tokens, each after Begin.
func (s *scene) store(put func(step *device.Step)) {
	for _, step := range []*device.Step{&s.before, &s.step} {
		if len(step.Tokens) > 0 {
			s.e.dev.Begin(step)
			put(step)
		}
	}
}

// wholeRuns returns one run for each sequence, over all its keys.
func (s *scene) wholeRuns() []device.Run {
	var runs []device.Run
	for i, q := range s.step.Seqs {
		runs = append(runs, device.Run{Seq: i, Row: q.Row, Rows: q.Rows, Pos: q.Prefix, KeyTo: q.Context(), Sel: -1})
	}
	return runs
}

// someRuns cuts the sequences into runs, leaves some rows out, and shuffles
// the runs. At least one run remains.
func (s *scene) someRuns() []device.Run {
	var runs []device.Run
	for _, r := range s.wholeRuns() {
		for from := 0; from < r.Rows; {
			n := s.e.between(1, r.Rows-from)
			if s.e.rng.IntN(4) > 0 {
				part := r
				part.Row, part.Pos, part.Rows = r.Row+from, r.Pos+from, n
				part.KeyTo = pick(s.e, r.KeyTo, part.Pos+n)
				runs = append(runs, part)
			}
			from += n
		}
	}
	if len(runs) == 0 {
		return s.wholeRuns()
	}
	s.e.rng.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
	return runs
}

// visible returns the positions that row i of run sees.
func visible(run device.Run, i int) (from, to int) {
	return run.KeyFrom, max(run.KeyFrom, min(run.KeyTo, run.Pos+i+1))
}

// eachRow calls f for every row of runs in order: n counts the rows, i is the
// row of the run.
func eachRow(runs []device.Run, f func(n int, run device.Run, i int)) {
	n := 0
	for _, run := range runs {
		for i := range run.Rows {
			f(n, run, i)
			n++
		}
	}
}

// skipped returns a function that tells the rows in no run.
func skipped(runs []device.Run) func(r int) bool {
	return func(r int) bool {
		return !slices.ContainsFunc(runs, func(run device.Run) bool { return r >= run.Row && r < run.Row+run.Rows })
	}
}

// rope draws a table of rotations for positions 0..n-1, all angles different.
func (e *env) rope(n, dr int, interleaved bool) (device.Rope, rotations) {
	var cos, sin []float64
	rot := rotations{interleaved: interleaved}
	for range n {
		var c, s []float64
		for range dr / 2 {
			a := e.rng.Float64() * 2 * math.Pi
			c, s = append(c, roundType(device.F32, math.Cos(a))), append(s, roundType(device.F32, math.Sin(a)))
		}
		rot.cos, rot.sin = append(rot.cos, c), append(rot.sin, s)
		cos, sin = append(cos, c...), append(sin, s...)
	}
	return device.Rope{
		Cos:         e.tensor(device.F32, dr/2, cos).Tensor,
		Sin:         e.tensor(device.F32, dr/2, sin).Tensor,
		Interleaved: interleaved,
	}, rot
}

// newCache makes a cache of three layers, of which the first and the last also
// hold index keys.
func (s *scene) newCache(d dims) device.Cache {
	c := must(s.e.dev.NewCache(device.CacheSpec{
		Format: s.e.format, Pages: s.pages, Layers: 3, Indexed: []int{0, 2},
		Latent: d.R, Rope: d.dr, IndexDim: d.Di,
	}))
	s.e.free = append(s.e.free, c)
	return c
}

// owner returns which sequence of s.step the sequence q of another step is.
func (s *scene) owner(q device.Seq) int {
	return slices.IndexFunc(s.step.Seqs, func(x device.Seq) bool { return x.Pages[0] == q.Pages[0] })
}

// blockWeights draws norm weights whose size changes from one FP8 block to the
// next; the second block is so small that the floor of the scale shows.
func (e *env) blockWeights(n int) []float64 {
	w := e.normal(device.F32, n, 1)
	for i := range w {
		switch block := i / 128; block {
		case 1:
			w[i] *= 1e-6
		default:
			w[i] = math.Ldexp(w[i], 3-3*block)
		}
		w[i] = roundType(device.F32, w[i])
	}
	return w
}
