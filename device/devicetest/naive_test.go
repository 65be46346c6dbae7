package devicetest

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"sort"

	"latent/device"
)

// naive is the simplest device there can be: bytes in Go slices, one loop in
// float64 for every sum. The suite is tested with it, as it is and with one
// mistake at a time. It shares no code with the suite's references.
type naive struct {
	bug  string // the mistake it makes, one of those in mutants
	step *device.Step
}

func (d *naive) Info() device.Info {
	return device.Info{Kind: "cpu", Name: "naive", Tier: "generic", Workers: 1, BatchInvariant: true}
}
func (d *naive) Close() error                               { return nil }
func (d *naive) Activation(a device.DType) device.DType     { return a }
func (d *naive) Sync() error                                { return nil }
func (d *naive) Begin(step *device.Step)                    { d.step = step }
func (d *naive) Alloc(n int64) (device.Memory, error)       { return naiveMemory(make([]byte, n)), nil }
func (d *naive) Upload(dst device.Tensor, src []byte)       { copy(raw(dst), src) }
func (d *naive) Download(b []byte, src device.Tensor) error { copy(b, raw(src)); return nil }

type naiveMemory []byte

func (m naiveMemory) Bytes() int64 { return int64(len(m)) }
func (m naiveMemory) Free()        {}

func raw(t device.Tensor) []byte {
	return t.Mem.(naiveMemory)[t.Offset : t.Offset+t.Bytes()]
}

// get reads row r of t.
func get(t device.Tensor, r int) []float64 {
	b := raw(t.Slice(r, r+1))
	v := make([]float64, t.Cols)
	for i := range v {
		v[i] = number(t.Type, b[i*t.Type.Size():])
	}
	return v
}

func number(t device.DType, b []byte) float64 {
	switch t {
	case device.F32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case device.BF16:
		return float64(device.F32FromBF16(binary.LittleEndian.Uint16(b)))
	case device.F16:
		return float64(device.F32FromF16(binary.LittleEndian.Uint16(b)))
	case device.F8E4M3:
		return float64(device.F32FromF8(b[0]))
	}
	return float64(int32(binary.LittleEndian.Uint32(b)))
}

// set writes row r of t.
func set(t device.Tensor, r int, v []float64) {
	b := raw(t.Slice(r, r+1))
	for i, x := range v {
		switch t.Type {
		case device.F32:
			binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(float32(x)))
		case device.BF16:
			binary.LittleEndian.PutUint16(b[2*i:], device.BF16FromF32(float32(x)))
		default:
			binary.LittleEndian.PutUint32(b[4*i:], uint32(int32(x)))
		}
	}
}

// naiveMatrix is a decoded weight.
type naiveMatrix struct {
	rows, cols int
	w          [][]float64
}

func (m *naiveMatrix) Rows() int    { return m.rows }
func (m *naiveMatrix) Cols() int    { return m.cols }
func (m *naiveMatrix) Bytes() int64 { return int64(8 * m.rows * m.cols) }

func (m *naiveMatrix) mul(x []float64) []float64 {
	y := make([]float64, m.rows)
	for o, row := range m.w {
		sum := 0.0
		for i, w := range row {
			sum += w * x[i]
		}
		y[o] = sum
	}
	return y
}

func (d *naive) LoadMatrix(arithmetic device.DType, parts ...device.MatrixSource) (device.Matrix, error) {
	return d.load(parts...), nil
}

func (d *naive) load(parts ...device.MatrixSource) *naiveMatrix {
	m := &naiveMatrix{cols: parts[0].Cols}
	for _, p := range parts {
		for r := range p.Rows {
			row := make([]float64, p.Cols)
			for c := range row {
				row[c] = number(p.Type, p.Data[(r*p.Cols+c)*p.Type.Size():])
				if p.Type != device.F8E4M3 {
					continue
				}
				blocks := (p.Cols + 127) / 128
				if d.bug == "edge blocks of columns not counted" {
					blocks = max(1, p.Cols/128)
				}
				br := r / 128
				if d.bug == "blocks counted from the stacked row" {
					br = min((m.rows+r)/128, (p.Rows+127)/128-1)
				}
				if d.bug == "last row block of 576 rows takes the one before" && r >= 512 {
					br--
				}
				scale := float64(p.Scales[min(br*blocks+c/128, len(p.Scales)-1)])
				if d.bug == "scale divided instead of multiplied" {
					scale = 1 / scale
				}
				row[c] *= scale
			}
			m.w = append(m.w, row)
		}
		m.rows += p.Rows
	}
	if d.bug == "float32 weights rounded to bfloat16" {
		for _, row := range m.w {
			for i := range row {
				row[i] = float64(device.F32FromBF16(device.BF16FromF32(float32(row[i]))))
			}
		}
	}
	return m
}

type naiveExperts []struct{ gate, up, down *naiveMatrix }

func (x naiveExperts) Count() int   { return len(x) }
func (x naiveExperts) Bytes() int64 { return 1 }

func (d *naive) LoadExperts(arithmetic device.DType, experts []device.ExpertSource) (device.Experts, error) {
	x := make(naiveExperts, len(experts))
	for i, s := range experts {
		x[i].gate, x[i].up, x[i].down = d.load(s.Gate), d.load(s.Up), d.load(s.Down)
	}
	return x, nil
}

func (d *naive) Embed(dst, table device.Tensor) {
	for r, id := range d.step.Tokens {
		set(dst, r, get(table, int(id)))
	}
}

func (d *naive) Gather(dst, src device.Tensor, rows []int32) {
	for i, r := range rows {
		set(dst, i, get(src, int(r)))
	}
}

func (d *naive) RMSNorm(dst, src, weight device.Tensor, eps float32) {
	for r := range src.Rows {
		set(dst, r, d.rms(get(src, r), get(weight, 0), eps))
	}
}

func (d *naive) rms(x, w []float64, eps float32) []float64 {
	switch d.bug {
	case "eps always 1e-6":
		eps = 1e-6
	case "eps always 1e-5":
		eps = 1e-5
	}
	y, sum := make([]float64, len(x)), 0.0
	for _, v := range x {
		sum += v * v
	}
	r := 1 / math.Sqrt(sum/float64(len(x))+float64(eps))
	if d.bug == "eps outside the root" {
		r = 1 / (math.Sqrt(sum/float64(len(x))) + float64(eps))
	}
	for i := range x {
		y[i] = x[i] * r * w[i]
		if d.bug == "norm weight plus one" {
			y[i] = x[i] * r * (1 + w[i])
		}
	}
	return y
}

func (d *naive) Linear(dst, src device.Tensor, w device.Matrix, add bool) {
	for r := range src.Rows {
		y := w.(*naiveMatrix).mul(get(src, r))
		if add && d.bug != "add ignored" {
			for i, x := range get(dst, r) {
				y[i] += x
			}
		}
		set(dst, r, y)
	}
}

func (d *naive) SwiGLU(dst, src device.Tensor) {
	for r := range src.Rows {
		x := get(src, r)
		set(dst, r, d.gate(x[:dst.Cols], x[dst.Cols:]))
	}
}

func (d *naive) gate(g, u []float64) []float64 {
	if d.bug == "gate and up swapped" {
		g, u = u, g
	}
	y := make([]float64, len(g))
	for i := range y {
		y[i] = g[i] / (1 + math.Exp(-g[i])) * u[i]
		if d.bug == "exponential overflows" {
			y[i] = g[i] * (1 - 1/(1+float64(float32(math.Exp(g[i]))))) * u[i]
			if float32(math.Exp(g[i])) > math.MaxFloat32 {
				y[i] = math.NaN()
			}
		}
	}
	return y
}

func (d *naive) Route(ids, weights, logits, bias device.Tensor, router device.Router) {
	for r := range logits.Rows {
		x := get(logits, r)
		score := make([]float64, len(x))
		sum := 0.0
		for i, v := range x {
			sum += math.Exp(v)
			score[i] = 1 / (1 + math.Exp(-v))
		}
		for i, v := range x {
			if (router.Score == device.Softmax) != (d.bug == "softmax for sigmoid" || d.bug == "sigmoid for softmax") {
				score[i] = math.Exp(v) / sum
			}
		}
		choice := slices.Clone(score)
		if bias.Mem != nil && d.bug != "bias ignored" {
			for i, b := range get(bias, 0) {
				choice[i] += b
			}
		}
		if router.Limit != device.NoGroups && d.bug != "groups not limited" {
			d.dropGroups(choice, router)
		}
		var chosen, w []float64
		total := 0.0
		for range router.Choose {
			best := -1
			for i, c := range choice {
				later := best >= 0 && d.bug == "ties to the higher expert" && c == choice[best]
				if !math.IsNaN(c) && (best < 0 || c > choice[best] || later) {
					best = i
				}
			}
			weight := score[best]
			if d.bug == "bias used in weights" {
				weight = choice[best]
			}
			chosen, w = append(chosen, float64(best)), append(w, weight)
			total += weight
			choice[best] = math.NaN()
		}
		for j := range w {
			if router.Normalize != (d.bug == "renormalisation the other way") {
				w[j] /= total
			}
			if d.bug != "routed scale dropped" {
				w[j] *= float64(router.Scale)
			}
		}
		if d.bug == "experts in ascending order" {
			slices.Sort(chosen)
		}
		set(ids, r, chosen)
		set(weights, r, w)
	}
}

func (d *naive) dropGroups(choice []float64, router device.Router) {
	size := len(choice) / router.Groups
	group := func(g int) float64 {
		a := slices.Clone(choice[g*size : (g+1)*size])
		sort.Sort(sort.Reverse(sort.Float64Slice(a)))
		if (router.Limit == device.GroupTop2Sum) != (d.bug == "group maximum for sum and sum for maximum") {
			return a[0] + a[1]
		}
		return a[0]
	}
	order := make([]int, router.Groups)
	score := make([]float64, router.Groups)
	for g := range order {
		order[g], score[g] = g, group(g)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case score[a] > score[b]:
			return -1
		case score[a] < score[b]:
			return 1
		case d.bug == "ties to the higher group":
			return b - a
		}
		return 0
	})
	for _, g := range order[router.KeepGroups:] {
		for i := range size {
			choice[g*size+i] = math.Inf(-1)
			if router.Limit == device.GroupMax || d.bug == "dropped groups 0 instead of -Inf" {
				choice[g*size+i] = 0
			}
		}
	}
}

func (d *naive) MoE(dst, src, ids, weights device.Tensor, experts device.Experts) {
	for r := range src.Rows {
		y := get(dst, r)
		w := get(weights, r)
		for j, id := range get(ids, r) {
			x := experts.(naiveExperts)[int(id)]
			out := x.down.mul(d.gate(x.gate.mul(get(src, r)), x.up.mul(get(src, r))))
			if d.bug == "expert weights ignored" {
				w[j] = 1
			}
			for i := range y {
				y[i] += w[j] * out[i]
				if d.bug == "experts overwrite" {
					y[i] = w[j] * out[i]
				}
			}
		}
		set(dst, r, y)
	}
}

// turn rotates x by position p.
func (d *naive) turn(x []float64, rope device.Rope, p int32) {
	cos, sin := get(rope.Cos, int(p)), get(rope.Sin, int(p))
	half := len(cos)
	for i := range cos {
		a, b := i, i+half
		if rope.Interleaved != (d.bug == "half-split and interleaved exchanged") {
			a, b = 2*i, 2*i+1
		}
		s := sin[i]
		if d.bug == "rotation the other way" {
			s = -s
		}
		x[a], x[b] = x[a]*cos[i]-x[b]*s, x[b]*cos[i]+x[a]*s
	}
}

func (d *naive) RopeQuery(q device.Tensor, heads int, rope device.Rope) {
	w, dr := q.Cols/heads, 2*rope.Cos.Cols
	for r, p := range d.step.Positions {
		x := get(q, r)
		for h := range heads {
			head := x[h*w : (h+1)*w]
			part := head[w-dr:]
			if d.bug == "rope part first in the head" {
				part = head[:dr]
			}
			if d.bug == "positions from the row" {
				p = int32(r)
			}
			d.turn(part, rope, p)
		}
		set(q, r, x)
	}
}

// naiveHadamard multiplies by H/sqrt(n) if n is a power of two.
func naiveHadamard(x []float64) []float64 {
	n := len(x)
	if bits.OnesCount(uint(n)) != 1 {
		return x
	}
	y := slices.Clone(x)
	for h := 1; h < n; h *= 2 {
		for i := range n {
			if i&h == 0 {
				y[i], y[i|h] = y[i]+y[i|h], y[i]-y[i|h]
			}
		}
	}
	for i := range y {
		y[i] /= math.Sqrt(float64(n))
	}
	return y
}

// block8 rounds x as one FP8 block.
func (d *naive) block8(x []float64) {
	var amax float32
	for _, v := range x {
		amax = max(amax, float32(math.Abs(v)))
	}
	scale := device.QuantScale(amax)
	switch d.bug {
	case "scale not a power of two":
		scale = max(amax, 1e-4) / 448
	case "scale by a logarithm":
		scale = float32(math.Exp2(math.Ceil(float64(float32(math.Log(float64(max(amax, 1e-4)/448))) / math.Ln2))))
	case "no floor of the scale":
		scale = float32(math.Exp2(math.Ceil(math.Log2(float64(amax) / 448))))
	case "floor of the scale 1e-4":
		scale = max(scale, 0x1p-13)
	}
	for i, v := range x {
		x[i] = float64(device.F32FromF8(device.F8FromF32(float32(v)/scale))) * float64(scale)
	}
}

func bf16s(x []float64) {
	for i, v := range x {
		x[i] = float64(device.F32FromBF16(device.BF16FromF32(float32(v))))
	}
}
