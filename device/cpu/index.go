package cpu

import (
	"fmt"

	"latent/device"
	"latent/device/cpu/kern"
)

// IndexQuery implements device.Device.
func (d *Device) IndexQuery(ca device.Cache, q, weights device.Tensor, scale float32, rope device.Rope, runs []device.Run) {
	c := cacheOf("IndexQuery", ca, 0)
	rows := d.rowsOf("IndexQuery", runs)
	heads, n := weights.Cols, c.spec.IndexDim
	wantShape("IndexQuery", "q", q, len(rows), heads*n)
	wantShape("IndexQuery", "weights", weights, len(rows), heads)
	x, w := floats("IndexQuery", "q", q), floats("IndexQuery", "weights", weights)
	rot := newRotation("IndexQuery", rope)
	if rot.dr > n {
		panic(fmt.Sprintf("cpu: IndexQuery: rope of %d elements for heads of %d", rot.dr, n))
	}
	d.overRows(len(rows), 16*q.Cols, func(ws *arena, from, to int) {
		codes := make([]byte, n)
		for i := from; i < to; i++ {
			d.k.Scale(w[i*heads:][:heads], scale)
			for h := range heads {
				x := x[(i*heads+h)*n:][:n]
				rot.apply(x[:rot.dr], d.step.Positions[rows[i]])
				if c.spec.Format == device.CacheF8 {
					hadamard(x)
					d.k.F32FromF8(x, codes, d.quantize(codes, x))
				}
			}
		}
	})
}

// indexItem is an item of IndexScores: query rows [r0, r1) of a run against
// pages [p0, p1) of its sequence.
type indexItem struct {
	run    *device.Run
	first  int // row of the run's first row in q
	r0, r1 int
	p0, p1 int
}

// IndexScores implements device.Device. A page's keys are two panels; the
// queries' heads are the rows of a product with them.
func (d *Device) IndexScores(scores, q, weights device.Tensor, ca device.Cache, layer int, runs []device.Run) {
	c := cacheOf("IndexScores", ca, layer)
	pool := c.indexPool("IndexScores", layer)
	rows := d.rowsOf("IndexScores", runs)
	heads, n := weights.Cols, c.spec.IndexDim
	wantShape("IndexScores", "q", q, len(rows), heads*n)
	wantShape("IndexScores", "weights", weights, len(rows), heads)
	wantShape("IndexScores", "scores", scores, len(rows), scores.Cols)
	out := floats("IndexScores", "scores", scores)
	x, w := floats("IndexScores", "q", q), floats("IndexScores", "weights", weights)

	// Some hundred rows of a product share the conversion of a page.
	group := max(1, 16*d.k.Rows/heads)
	var items []indexItem
	first := 0
	for i := range runs {
		r := &runs[i]
		for r0 := 0; r0 < r.Rows; r0 += group {
			r1 := min(r0+group, r.Rows)
			_, to := visible(r, r1-1)
			if to > scores.Cols {
				panic(fmt.Sprintf("cpu: IndexScores: %d visible keys for scores %s", to, shape(scores)))
			}
			for p0, pages := 0, (to+pageTokens-1)/pageTokens; p0 < pages; p0 += 16 {
				items = append(items, indexItem{r, first, r0, r1, p0, min(p0+16, pages)})
			}
		}
		first += r.Rows
	}
	d.parallel(len(items), func(ws *arena, i int) {
		it := &items[i]
		seq := &d.step.Seqs[it.run.Seq]
		m := (it.r1 - it.r0) * heads
		top := it.first + it.r0
		pq := ws.floats(d.packedLen(m, n))
		d.packRows(ws, pq, operand{x: x[top*heads*n:], ld: n}, 0, m, 0, n)
		s, buf := ws.floats(m*pageTokens), ws.floats(n*pageTokens)
		var sum [pageTokens]float32
		for p := it.p0; p < it.p1; p++ {
			keys, scales := d.keyPage(buf, c, pool, int(seq.Pages[p]))
			clear(s)
			for j := 0; j < pageTokens; j += kern.N {
				d.product(m, kern.N, n, pq, keys[j:], pageTokens, s[j:], pageTokens)
			}
			for r := range it.r1 - it.r0 {
				_, to := visible(it.run, it.r0+r)
				to = min(to-p*pageTokens, pageTokens)
				if to <= 0 {
					continue
				}
				clear(sum[:])
				for h := range heads {
					d.k.ReluWeighted(sum[:], s[(r*heads+h)*pageTokens:][:pageTokens], w[(top+r)*heads+h])
				}
				for t := range scales {
					sum[t] *= scales[t]
				}
				copy(out[(top+r)*scores.Cols+p*pageTokens:][:to], sum[:])
			}
		}
	})
}
