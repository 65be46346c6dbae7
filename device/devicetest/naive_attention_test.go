package devicetest

import (
	"math"
	"slices"
	"sort"

	"latent/device"
)

// naiveCache holds decoded records by layer and slot.
type naiveCache struct {
	spec   device.CacheSpec
	latent [][][]float64 // [layer][slot] R+dr
	index  [][][]float64 // [layer][slot] Di
}

func (c *naiveCache) Spec() device.CacheSpec { return c.spec }
func (c *naiveCache) Free()                  {}
func (c *naiveCache) Bytes() int64 {
	return int64(c.spec.Pages*device.PageTokens) * c.spec.TokenBytes()
}

func (d *naive) NewCache(spec device.CacheSpec) (device.Cache, error) {
	pool := func(width int) [][]float64 {
		return slices.Repeat([][]float64{make([]float64, width)}, spec.Pages*device.PageTokens)
	}
	c := &naiveCache{spec: spec}
	for range spec.Layers {
		c.latent, c.index = append(c.latent, pool(spec.Latent+spec.Rope)), append(c.index, pool(spec.IndexDim))
	}
	return c, nil
}

// slot returns where position p of a sequence is stored.
func (d *naive) slot(seq int, p int) int {
	pages := d.step.Seqs[seq].Pages
	page := int(pages[p/device.PageTokens])
	if d.bug == "page table ignored" {
		page = int(slices.Min(pages)) // as if the sequence had one page
	}
	return page*device.PageTokens + p%device.PageTokens
}

func (d *naive) StoreLatent(cache device.Cache, layer int, u, weight device.Tensor, eps float32, rope device.Rope) {
	c := cache.(*naiveCache)
	R := c.spec.Latent
	if d.bug == "one layer for all" {
		layer = 0
	}
	for r, slot := range d.step.Slots {
		x := get(u, r)
		lat := d.rms(x[:R], get(weight, 0), eps)
		key := x[R:]
		if d.bug == "rope key normalised" {
			ones := make([]float64, len(key))
			for i := range ones {
				ones[i] = 1
			}
			key = d.rms(key, ones, eps)
		}
		d.turn(key, rope, d.step.Positions[r])
		switch c.spec.Format {
		case device.CacheBF16:
			bf16s(lat)
			bf16s(key)
		case device.CacheF8:
			size := min(128, R)
			if d.bug == "one FP8 block for the whole latent" {
				size = R
			}
			for from := 0; from < R; from += size {
				d.block8(lat[from:min(R, from+size)])
			}
			if d.bug == "rope key in FP8" {
				d.block8(key)
			}
			bf16s(key)
		}
		c.latent[layer][slot] = append(lat, key...)
	}
}

func (d *naive) StoreIndexKey(cache device.Cache, layer int, k, weight, bias device.Tensor, eps float32, rope device.Rope) {
	c := cache.(*naiveCache)
	for r, slot := range d.step.Slots {
		x, w, b := get(k, r), get(weight, 0), get(bias, 0)
		mean, variance := 0.0, 0.0
		for _, v := range x {
			mean += v / float64(len(x))
		}
		if d.bug == "RMSNorm for LayerNorm" {
			mean = 0
		}
		for _, v := range x {
			variance += (v - mean) * (v - mean) / float64(len(x))
		}
		if d.bug == "sample variance" {
			variance *= float64(len(x)) / float64(len(x)-1)
		}
		for i := range x {
			x[i] = (x[i] - mean) / math.Sqrt(variance+float64(eps)) * w[i]
			if d.bug != "LayerNorm without bias" {
				x[i] += b[i]
			}
		}
		d.turn(d.indexRope(x, rope), rope, d.step.Positions[r])
		switch c.spec.Format {
		case device.CacheBF16:
			bf16s(x)
		case device.CacheF8:
			if d.bug != "Hadamard on queries only" {
				x = naiveHadamard(x)
			}
			d.block8(x)
		}
		if d.bug == "index keys in the slot of the row" {
			slot = int32(r)
		}
		c.index[layer][slot] = x
	}
}

// indexRope returns the part of an indexer head that has a position.
func (d *naive) indexRope(x []float64, rope device.Rope) []float64 {
	dr := 2 * rope.Cos.Cols
	if d.bug == "rope part last in the indexer head" {
		return x[len(x)-dr:]
	}
	return x[:dr]
}

func (d *naive) IndexQuery(cache device.Cache, q, weights device.Tensor, scale float32, rope device.Rope, runs []device.Run) {
	spec, n := cache.Spec(), 0
	for _, run := range runs {
		for i := range run.Rows {
			x, w := get(q, n), get(weights, n)
			for h := range w {
				w[h] *= float64(scale)
				if d.bug == "softplus on the index weights" {
					w[h] = math.Log1p(math.Exp(w[h]))
				}
				head := x[h*spec.IndexDim : (h+1)*spec.IndexDim]
				p := run.Pos + i
				if d.bug == "indexer queries all at the run's position" {
					p = run.Pos
				}
				d.turn(d.indexRope(head, rope), rope, int32(p))
				if spec.Format == device.CacheF8 {
					if d.bug != "Hadamard on keys only" {
						copy(head, naiveHadamard(head))
					}
					if d.bug != "index queries not rounded" {
						d.block8(head)
					}
				}
			}
			set(q, n, x)
			set(weights, n, w)
			n++
		}
	}
}

func (d *naive) IndexScores(scores, q, weights device.Tensor, cache device.Cache, layer int, runs []device.Run) {
	c, n := cache.(*naiveCache), 0
	for _, run := range runs {
		for i := range run.Rows {
			x, w, out := get(q, n), get(weights, n), get(scores, n)
			for s := range min(run.KeyTo, run.Pos+i+1) {
				k := c.index[layer][d.slot(run.Seq, s)]
				total := 0.0
				for h := range w {
					dot := 0.0
					for j := range k {
						dot += x[h*len(k)+j] * k[j]
					}
					if d.bug == "no ReLU" {
						total += w[h] * dot
					} else if d.bug == "absolute value for ReLU" {
						total += w[h] * math.Abs(dot)
					} else {
						total += w[h] * max(0, dot)
					}
				}
				if d.bug == "ReLU after the weights" {
					total = max(0, total)
				}
				out[s] = total
			}
			set(scores, n, out)
			n++
		}
	}
}

// naiveSelection holds selected positions by row.
type naiveSelection struct {
	form device.SelectionForm
	rows [][]int32
}

func (s *naiveSelection) Form() device.SelectionForm { return s.form }
func (s *naiveSelection) Rows() int                  { return len(s.rows) }
func (s *naiveSelection) Positions(r int) []int32    { return s.rows[r] }
func (s *naiveSelection) Free()                      {}

func (d *naive) NewSelection(form device.SelectionForm, rows, keys, topk int) (device.Selection, error) {
	return &naiveSelection{form, make([][]int32, rows)}, nil
}

func (d *naive) SelectTopK(sel device.Selection, scores device.Tensor, topk int, runs []device.Run) {
	switch d.bug {
	case "top-k of K-1":
		topk--
	case "top-k of K+1":
		topk++
	case "other rows of the selection lost":
		clear(sel.(*naiveSelection).rows)
	}
	n := 0
	for _, run := range runs {
		for i := range run.Rows {
			x := get(scores, n)
			visible := min(run.KeyTo, run.Pos+i+1)
			if d.bug == "top-k before the causal mask" {
				visible = min(len(x), run.KeyTo)
			}
			var order []int32
			for s := range visible {
				order = append(order, int32(s))
			}
			sort.Slice(order, func(a, b int) bool { return d.before(x, order[a], order[b]) })
			if d.bug == "most recent K" {
				slices.Reverse(order)
			}
			order = order[:max(0, min(topk, len(order)))]
			slices.Sort(order)
			order = slices.DeleteFunc(order, func(s int32) bool { return int(s) > run.Pos+i })
			if d.bug == "current token forced in" && len(order) > 0 {
				order[len(order)-1] = int32(run.Pos + i)
			}
			row := run.Sel + i
			if d.bug == "selection rows without Sel" {
				row = n
			}
			sel.(*naiveSelection).rows[row] = order
			n++
		}
	}
}

// before tells whether position a ranks before b.
func (d *naive) before(x []float64, a, b int32) bool {
	u, v := x[a], x[b]
	if d.bug == "most recent K" {
		return a < b
	}
	if d.bug == "-0 below +0" && u == 0 && v == 0 && math.Signbit(u) != math.Signbit(v) {
		return math.Signbit(v)
	}
	if math.IsNaN(u) || math.IsNaN(v) {
		if math.IsNaN(u) && math.IsNaN(v) {
			return a < b
		}
		return math.IsNaN(v) != (d.bug == "NaN above everything")
	}
	if u != v {
		return u > v
	}
	if d.bug == "ties to the later key" {
		return a > b
	}
	return a < b
}

// naiveKVB is kv_b_proj by head.
type naiveKVB struct {
	heads, dn, dv, r int
	k, v             []*naiveMatrix
}

func (w *naiveKVB) Heads() int   { return w.heads }
func (w *naiveKVB) Nope() int    { return w.dn }
func (w *naiveKVB) Value() int   { return w.dv }
func (w *naiveKVB) Latent() int  { return w.r }
func (w *naiveKVB) Bytes() int64 { return 1 }

func (d *naive) LoadKVB(arithmetic device.DType, heads, nope, value int, w device.MatrixSource) (device.KVB, error) {
	m := d.load(w)
	x := &naiveKVB{heads: heads, dn: nope, dv: value, r: w.Cols}
	for h := range heads {
		rows := m.w[h*(nope+value) : (h+1)*(nope+value)]
		kFrom, vFrom := 0, nope
		if d.bug == "kv_b halves swapped" {
			kFrom, vFrom = value, 0
		}
		x.k = append(x.k, &naiveMatrix{nope, w.Cols, rows[kFrom : kFrom+nope]})
		x.v = append(x.v, &naiveMatrix{value, w.Cols, rows[vFrom : vFrom+value]})
	}
	return x, nil
}

func (d *naive) KVBytes(kvb device.KVB, rope, keys int) int64 {
	return int64(8 * keys * kvb.Heads() * (kvb.Nope() + rope + kvb.Value()))
}

// kvTensor is the expansion seen as a float32 tensor: a key per row.
func kvTensor(kv device.Memory, width int) device.Tensor {
	return device.Tensor{Type: device.F32, Rows: int(kv.Bytes()) / (4 * width), Cols: width, Mem: kv}
}

func (d *naive) ExpandKV(kv device.Memory, cache device.Cache, layer int, kvb device.KVB, ranges []device.KeyRange) {
	c, w := cache.(*naiveCache), kvb.(*naiveKVB)
	for _, rg := range ranges {
		for p := rg.From; p < rg.To; p++ {
			rec := c.latent[layer][d.slot(rg.Seq, p)]
			var row []float64
			for h := range w.heads {
				row = append(row, w.k[h].mul(rec[:w.r])...)
				row = append(row, rec[w.r:]...)
				row = append(row, w.v[h].mul(rec[:w.r])...)
			}
			t := kvTensor(kv, len(row))
			to := rg.Keys + p - rg.From
			if d.bug == "ranges expanded one after another from 0" {
				to = p - ranges[0].From
			}
			set(t, to, row)
		}
	}
}

// softmax attends q to keys and returns the output and the log-sum-exp.
func (d *naive) softmax(q []float64, keys, values [][]float64, width int, scale float64) ([]float64, float64) {
	out := make([]float64, width)
	if len(keys) == 0 {
		switch d.bug {
		case "empty rows are NaN":
			return slices.Repeat([]float64{math.NaN()}, width), math.Inf(-1)
		case "empty rows have log-sum-exp 0":
			return out, 0
		}
		return out, math.Inf(-1)
	}
	if d.bug == "softmax scale dropped" {
		scale = 1
	}
	var total float64
	top := math.Inf(-1)
	s := make([]float64, len(keys))
	for i, k := range keys {
		for j, x := range q {
			s[i] += x * k[j]
		}
		s[i] *= scale
		top = max(top, s[i])
	}
	if d.bug == "maximum not subtracted" {
		top = 0
	}
	for i := range s {
		total += float64(float32(math.Exp(s[i] - top)))
	}
	for i, v := range values {
		p := float64(float32(math.Exp(s[i]-top))) / total
		for j := range out {
			out[j] += p * v[j]
		}
	}
	lse := top + math.Log(total)
	switch d.bug {
	case "log-sum-exp to base 2":
		lse /= math.Ln2
	case "log-sum-exp without the maximum":
		lse -= top
	}
	return out, lse
}

// seen lists the positions that row i of run attends to.
func (d *naive) seen(run device.Run, i int, sel device.Selection) []int {
	from, to := run.KeyFrom, min(run.KeyTo, run.Pos+i+1)
	switch d.bug {
	case "not causal":
		to = run.KeyTo
	case "own key not seen":
		to = min(run.KeyTo, run.Pos+i)
	case "KeyTo ignored":
		to = run.Pos + i + 1
	case "KeyFrom ignored":
		from = 0
	}
	var ps []int
	if run.Sel < 0 || d.bug == "selection ignored" {
		for p := from; p < to; p++ {
			ps = append(ps, p)
		}
		return ps
	}
	row := run.Sel + i
	if d.bug == "selection of the run's first row" {
		row = run.Sel
	}
	for _, p := range sel.Positions(row) {
		if int(p) >= from && int(p) < to {
			ps = append(ps, int(p))
		}
	}
	return ps
}

func (d *naive) MHA(out, lse, q device.Tensor, kv device.Memory, kvb device.KVB, sel device.Selection, scale float32, runs []device.Run) {
	H, dn, dv := kvb.Heads(), kvb.Nope(), kvb.Value()
	dqk := q.Cols / H
	t := kvTensor(kv, H*(dqk+dv))
	if d.bug == "all rows written" {
		for r := range out.Rows {
			set(out, r, make([]float64, out.Cols))
		}
	}
	for _, run := range runs {
		for i := range run.Rows {
			x := get(q, run.Row+i)
			var rows [][]float64
			for _, p := range d.seen(run, i, sel) {
				rows = append(rows, get(t, run.Keys+p-run.KeyFrom))
			}
			var o, l []float64
			for h := range H {
				var keys, values [][]float64
				for _, row := range rows {
					kv := row[h*(dqk+dv) : (h+1)*(dqk+dv)]
					keys, values = append(keys, kv[:dqk]), append(values, kv[dqk:])
				}
				head := x[h*dqk : (h+1)*dqk]
				if d.bug == "q halves swapped" {
					head = slices.Concat(head[dn:], head[:dn])
				}
				oh, lh := d.softmax(head, keys, values, dv, float64(scale))
				o, l = append(o, oh...), append(l, lh)
			}
			set(out, run.Row+i, o)
			set(lse, run.Row+i, l)
		}
	}
}

func (d *naive) Absorb(dst, q device.Tensor, kvb device.KVB, runs []device.Run) {
	w, n := kvb.(*naiveKVB), 0
	dqk := q.Cols / w.heads
	for _, run := range runs {
		for i := range run.Rows {
			x := get(q, run.Row+i)
			if d.bug == "absorbs the compact row" {
				x = get(q, n)
			}
			var y []float64
			for h := range w.heads {
				head := x[h*dqk : (h+1)*dqk]
				part := make([]float64, w.r)
				for j, row := range w.k[h].w {
					for c := range part {
						part[c] += row[c] * head[j]
					}
				}
				y = append(append(y, part...), head[w.dn:]...)
			}
			set(dst, n, y)
			n++
		}
	}
}

func (d *naive) MLA(z, lse, qa device.Tensor, cache device.Cache, layer int, sel device.Selection, scale float32, runs []device.Run) {
	c, n := cache.(*naiveCache), 0
	R := c.spec.Latent
	H := lse.Cols
	width := qa.Cols / H
	for _, run := range runs {
		for i := range run.Rows {
			x := get(qa, n)
			var keys, values [][]float64
			for _, p := range d.seen(run, i, sel) {
				rec := c.latent[layer][d.slot(run.Seq, p)]
				keys, values = append(keys, rec), append(values, rec[:R])
			}
			var o, l []float64
			for h := range H {
				oh, lh := d.softmax(x[h*width:(h+1)*width], keys, values, R, float64(scale))
				o, l = append(o, oh...), append(l, lh)
			}
			set(z, n, o)
			set(lse, n, l)
			n++
		}
	}
}

func (d *naive) Unabsorb(out, z device.Tensor, kvb device.KVB, runs []device.Run) {
	w, n := kvb.(*naiveKVB), 0
	for _, run := range runs {
		for i := range run.Rows {
			x := get(z, n)
			var y []float64
			for h := range w.heads {
				y = append(y, w.v[h].mul(x[h*w.r:(h+1)*w.r])...)
			}
			row := run.Row + i
			if d.bug == "unabsorbs to the compact row" {
				row = n
			}
			set(out, row, y)
			n++
		}
	}
}

func (d *naive) MergeLSE(out, lse, part, partLSE device.Tensor, runs []device.Run) {
	heads := lse.Cols
	width := out.Cols / heads
	for _, run := range runs {
		for r := run.Row; r < run.Row+run.Rows; r++ {
			a, b, la, lb := get(out, r), get(part, r), get(lse, r), get(partLSE, r)
			for h := range heads {
				if math.IsInf(lb[h], -1) && d.bug != "merge of two empty parts is NaN" {
					continue
				}
				top := max(la[h], lb[h])
				wa, wb := math.Exp(la[h]-top), math.Exp(lb[h]-top)
				switch d.bug {
				case "merge by equal shares":
					wa, wb = 1, 1
				case "merge to base 2":
					wa, wb = math.Exp2(la[h]-top), math.Exp2(lb[h]-top)
				}
				for j := h * width; j < (h+1)*width; j++ {
					a[j] = (wa*a[j] + wb*b[j]) / (wa + wb)
				}
				if d.bug != "merged log-sum-exp not updated" {
					la[h] = top + math.Log(wa+wb)
				}
			}
			set(out, r, a)
			set(lse, r, la)
		}
	}
}
