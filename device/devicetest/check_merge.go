package devicetest

import (
	"fmt"
	"math"

	"latent/device"
)

// checkMergeLSE merges random partial attentions, some of them empty, one head
// at a time.
func checkMergeLSE(e *env) error {
	for range 5 {
		heads, width := e.between(1, 6), pick(e, 1, 14, 128, 40)
		s := e.newScene(shape{3, e.between(1, 20)}, shape{0, e.between(1, 20)})
		e.dev.Begin(&s.step)
		draw := func() (out, lse []float64) {
			for range s.rows() * heads {
				x := math.Inf(-1)
				row := make([]float64, width)
				if e.rng.IntN(4) > 0 {
					x, row = roundType(device.F32, e.rng.NormFloat64()*pick(e, 1.0, 100)), e.normal(e.act, width, 1)
				}
				out, lse = append(out, row...), append(lse, x)
			}
			return out, lse
		}
		a, lseA := draw()
		b, lseB := draw()
		runs := s.someRuns()
		skip := skipped(runs)
		want, mag := append([]float64(nil), a...), magnitudes(a)
		wantLSE, lseMag := append([]float64(nil), lseA...), make([]float64, len(lseA))
		for i := range lseA {
			if skip(i / heads) {
				continue
			}
			out, lse := specMerge(a[i*width:(i+1)*width], b[i*width:(i+1)*width], lseA[i], lseB[i])
			copy(want[i*width:], out)
			wantLSE[i], lseMag[i] = lse, 1
			for j := i * width; j < (i+1)*width; j++ {
				mag[j] = math.Max(math.Abs(a[j]), math.Abs(b[j]))
				// A share of the sum is as exact as the difference of the log-sum-exps.
				mag[j] *= 1 + min(100, math.Abs(lseA[i]-lseB[i]))
				if math.IsInf(lseB[i], -1) {
					mag[j] = 0 // changes nothing
				}
			}
		}
		out, lse := e.tensor(e.act, heads*width, a), e.tensor(device.F32, heads, lseA)
		e.dev.MergeLSE(out.Tensor, lse.Tensor, e.tensor(e.act, heads*width, b).Tensor, e.tensor(device.F32, heads, lseB).Tensor, runs)
		what := fmt.Sprintf("%d heads of %d", heads, width)
		got, gotLSE := out.read(), lse.read()
		for i := range lseA {
			if !skip(i/heads) && !math.IsInf(lseB[i], -1) {
				continue
			}
			part := fmt.Sprintf("%s: row %d head %d, which does not change", what, i/heads, i%heads)
			if err := same(part, got[i*width:(i+1)*width], a[i*width:(i+1)*width], width); err != nil {
				return err
			}
			if err := same(part+": lse", gotLSE[i:i+1], lseA[i:i+1], 1); err != nil {
				return err
			}
		}
		if err := e.compare(what+": out", got, want, mag, heads*width); err != nil {
			return err
		}
		if err := e.compare(what+": lse", gotLSE, wantLSE, lseMag, heads); err != nil {
			return err
		}
	}
	return nil
}

// checkKeyChunks computes attention in key chunks and merges them: expanded
// and in latent space, dense and selected, the result is that over all keys.
func checkKeyChunks(e *env) error {
	for _, l := range []*layer{
		e.newScene(shape{0, 65}, shape{100, 15}, shape{0, 1}, shape{63, 2}).newLayer(oddDims()),
		e.newScene(shape{61, 5}, shape{1, 3}).newLayer(realDims()),
	} {
		e.dev.Begin(&l.step)
		for _, selected := range []bool{false, true} {
			for _, chunk := range []int{64, e.between(30, 90)} {
				if err := l.keyChunks(selected, chunk); err != nil {
					return fmt.Errorf("%v in chunks of %d keys, selected=%t: %w", l.dims, chunk, selected, err)
				}
			}
		}
	}
	return nil
}

func (l *layer) keyChunks(selected bool, chunk int) error {
	e := l.e
	runs := l.wholeRuns()
	var mask, indices device.Selection
	var sets [][]int32
	if selected {
		mask, indices, sets = l.selections(runs, 20)
	}
	q, qa := l.queries(l.rows(), l.dn+l.dr), l.queries(l.rows(), l.R+l.dr)
	qIn, qaIn := e.tensor(e.act, l.H*(l.dn+l.dr), q), e.tensor(e.act, l.H*(l.R+l.dr), qa)
	// Index 0 holds the merged result, 1 the chunk's.
	var out, lse, z, zLSE [2]buffer
	for i := range 2 {
		out[i], lse[i] = e.alloc(e.act, l.rows(), l.H*l.dv), e.alloc(device.F32, l.rows(), l.H)
		z[i], zLSE[i] = e.alloc(e.act, l.rows(), l.H*l.R), e.alloc(device.F32, l.rows(), l.H)
	}
	for from := 0; from < l.context(); from += chunk {
		var part []device.Run
		for _, r := range runs {
			if from < r.KeyTo {
				r.KeyFrom, r.KeyTo = from, min(from+chunk, r.KeyTo)
				part = append(part, r)
			}
		}
		into := min(from, 1)
		e.dev.MHA(out[into].Tensor, lse[into].Tensor, qIn.Tensor, l.expand(part), l.kvb, mask, float32(l.scale), part)
		if into == 1 {
			e.dev.MergeLSE(out[0].Tensor, lse[0].Tensor, out[1].Tensor, lse[1].Tensor, part)
		}
		// In latent space the rows of a call have no gaps: run by run.
		for _, r := range part {
			rows := func(b buffer) device.Tensor { return b.Slice(r.Row, r.Row+r.Rows) }
			one := []device.Run{r}
			e.dev.MLA(rows(z[into]), rows(zLSE[into]), rows(qaIn), l.cache, l.index, indices, float32(l.scale), one)
		}
		if into == 1 {
			e.dev.MergeLSE(z[0].Tensor, zLSE[0].Tensor, z[1].Tensor, zLSE[1].Tensor, part)
		}
	}
	if err := l.compareRows("mha", out[0], lse[0], runs, l.specMHA(q, runs, sets)); err != nil {
		return err
	}
	return l.compareRows("mla", z[0], zLSE[0], runs, l.specMLA(qa, runs, sets))
}
