package cpu

import (
	"fmt"

	"latent/device"
	"latent/device/cpu/kern"
)

// experts implements device.Experts. The panels of gate and up alternate in one
// matrix: outputs 64p.. of gateUp are outputs 32p.. of gate, then those of up.
type experts struct {
	hidden, inner int
	gateUp, down  []packed // by expert
}

func (e *experts) Count() int { return len(e.down) }

func (e *experts) Bytes() int64 {
	var n int64
	for i := range e.down {
		n += e.gateUp[i].bytes() + e.down[i].bytes()
	}
	return n
}

// LoadExperts implements device.Device.
func (d *Device) LoadExperts(arithmetic device.DType, sources []device.ExpertSource) (device.Experts, error) {
	n := len(sources)
	if n == 0 {
		return nil, fmt.Errorf("cpu: load: a layer without experts")
	}
	e := &experts{hidden: sources[0].Gate.Cols, inner: sources[0].Gate.Rows}
	var matrices []stack
	for _, s := range sources {
		for _, w := range []struct {
			src       device.MatrixSource
			rows, col int
		}{{s.Gate, e.inner, e.hidden}, {s.Up, e.inner, e.hidden}, {s.Down, e.hidden, e.inner}} {
			if w.src.Rows != w.rows || w.src.Cols != w.col {
				return nil, fmt.Errorf("cpu: load %s: [%d, %d], want [%d, %d] like the other experts", w.src.Name, w.src.Rows, w.src.Cols, w.rows, w.col)
			}
		}
		matrices = append(matrices, stack{parts: []device.MatrixSource{s.Gate, s.Up}, alternate: true}, stack{parts: []device.MatrixSource{s.Down}})
	}
	ws, err := d.pack(arithmetic, matrices)
	if err != nil {
		return nil, err
	}
	for i := range n {
		e.gateUp, e.down = append(e.gateUp, ws[2*i]), append(e.down, ws[2*i+1])
	}
	return e, nil
}

// assignment lists, by expert, the pairs (row, j) that chose it: expert e has
// pairs [start[e], start[e+1]), in order of rows. Pairs are the rows of the
// intermediate results.
type assignment struct {
	start []int32 // [E+1]
	rows  []int32 // [pairs] row of src
	place []int32 // [T·Ke] pair of (row, j)
}

// assign sorts the choices by expert.
func assign(ws *arena, ids []int32, choose, count int) assignment {
	a := assignment{start: ws.ints(count + 1), rows: ws.ints(len(ids)), place: ws.ints(len(ids))}
	clear(a.start)
	for i, e := range ids {
		if e < 0 || int(e) >= count {
			panic(fmt.Sprintf("cpu: MoE: row %d chooses expert %d of %d", i/choose, e, count))
		}
		a.start[e+1]++
	}
	for e := range count {
		a.start[e+1] += a.start[e]
	}
	next := ws.ints(count)
	copy(next, a.start)
	for i, e := range ids {
		p := next[e]
		next[e]++
		a.rows[p], a.place[i] = int32(i/choose), p
	}
	return a
}

// expertItem is an item of a parallel loop over experts: the i-th item of the
// tiling of one expert's rows.
type expertItem struct {
	expert int
	tiling tiling
	item   int
}

// expertItems lists the items of all experts with rows.
func (d *Device) expertItems(a *assignment, ws []packed) []expertItem {
	var items []expertItem
	chosen := 0
	for e := range ws {
		if a.start[e+1] > a.start[e] {
			chosen++
		}
	}
	for e := range ws {
		rows := int(a.start[e+1] - a.start[e])
		if rows == 0 {
			continue
		}
		t := d.tile(rows, &ws[e], chosen)
		for i := range t.items() {
			items = append(items, expertItem{e, t, i})
		}
	}
	return items
}

// MoE implements device.Device in three parallel loops: silu(gate)·up of all
// (row, expert) pairs, down of all pairs, and the weighted sum for each row in
// order of its choices.
func (d *Device) MoE(dst, src, ids, weights device.Tensor, ex device.Experts) {
	e, ok := ex.(*experts)
	if !ok {
		panic(fmt.Sprintf("cpu: MoE: experts are a %T", ex))
	}
	rows, ke := src.Rows, ids.Cols
	if src.Cols != e.hidden || ids.Rows != rows {
		panic(fmt.Sprintf("cpu: MoE: src %s and ids %s against experts [%d, %d]", shape(src), shape(ids), e.inner, e.hidden))
	}
	wantShape("MoE", "dst", dst, rows, e.hidden)
	wantShape("MoE", "weights", weights, rows, ke)
	out, in := floats("MoE", "dst", dst), floats("MoE", "src", src)
	chosen, w := ints("MoE", "ids", ids), floats("MoE", "weights", weights)

	d.shared.reset()
	a := assign(&d.shared, chosen, ke, e.Count())
	pairs := len(chosen)
	// Rows of a power of two would share cache sets.
	ldh := (e.inner+15)&^15 + 16
	h := d.shared.floats(pairs * ldh)
	y := d.shared.floats(pairs * e.hidden)

	items := d.expertItems(&a, e.gateUp)
	d.parallel(len(items), func(ws *arena, i int) {
		x := items[i].expert
		r0, r1, p0, p1 := items[i].tiling.item(items[i].item)
		top, n := int(a.start[x]), (p1-p0)*kern.N
		g := ws.floats((r1 - r0) * n)
		clear(g)
		d.multiply(ws, &e.gateUp[x], operand{x: in, ld: e.hidden, rows: a.rows[top:]}, r0, r1, p0, p1, g, n)
		for r := r0; r < r1; r++ {
			for c := p0 / 2 * kern.N; c < min(p1/2*kern.N, e.inner); c += kern.N {
				d.k.SiluMul(h[(top+r)*ldh+c:], g[:min(kern.N, e.inner-c)], g[kern.N:])
				g = g[2*kern.N:]
			}
		}
	})

	items = d.expertItems(&a, e.down)
	d.parallel(len(items), func(ws *arena, i int) {
		x := items[i].expert
		r0, r1, p0, p1 := items[i].tiling.item(items[i].item)
		top := int(a.start[x])
		c := y[(top+r0)*e.hidden+p0*kern.N:]
		zero(c, e.hidden, r1-r0, min(e.hidden, p1*kern.N)-p0*kern.N)
		d.multiply(ws, &e.down[x], operand{x: h[top*ldh:], ld: ldh}, r0, r1, p0, p1, c, e.hidden)
	})

	d.overRows(rows, 2*ke*e.hidden, func(_ *arena, from, to int) {
		for r := from; r < to; r++ {
			for j := range ke {
				p := int(a.place[r*ke+j])
				d.k.Axpy(out[r*e.hidden:][:e.hidden], w[r*ke+j], y[p*e.hidden:][:e.hidden])
			}
		}
	})
}
