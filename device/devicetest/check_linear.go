package devicetest

import (
	"fmt"
	"math"
	"slices"

	"latent/device"
)

// storedTypes are the types that checkpoints store matrices in.
var storedTypes = [...]device.DType{device.F32, device.BF16, device.F16, device.F8E4M3}

// matrix draws a weight as a checkpoint stores it, elements about as large as
// sigma, and decodes it. The scales of FP8 blocks all differ.
func (e *env) matrix(t device.DType, rows, cols int, sigma float64) (device.MatrixSource, matrix) {
	src := device.MatrixSource{Name: fmt.Sprintf("test.%v.weight", t), Rows: rows, Cols: cols, Type: t}
	if t != device.F8E4M3 {
		v := make([]float64, rows*cols)
		for i := range v {
			v[i] = e.rng.NormFloat64() * sigma
		}
		src.Data = encode(t, v)
		return src, decode(src)
	}
	src.Data = make([]byte, rows*cols)
	for i := range src.Data {
		src.Data[i] = byte(e.rng.IntN(127) | e.rng.IntN(2)<<7) // all codes but NaN
	}
	src.Scales = make([]float32, (rows+127)/128*((cols+127)/128))
	for i := range src.Scales {
		src.Scales[i] = float32(sigma / 100 * math.Exp2(e.rng.Float64()*4-2))
	}
	return src, decode(src)
}

// checkLinear multiplies by matrices of every stored type, single and stacked,
// with edge blocks in both directions.
func checkLinear(e *env) error {
	type part struct {
		t    device.DType
		rows int
	}
	type weight struct {
		cols  int
		parts []part
	}
	var weights []weight
	for _, t := range storedTypes {
		weights = append(weights,
			weight{1, []part{{t, 1}}},
			weight{72, []part{{t, 576}}},
			weight{40, []part{{t, 129}}},
			weight{e.between(130, 300), []part{{t, e.between(130, 300)}}},
			weight{700, []part{{t, e.between(1, 40)}}},
			weight{200, []part{{t, 72}, {t, 5}, {t, 140}}},
			weight{e.between(1, 256), []part{{t, 130}, {t, e.between(1, 200)}}},
		)
	}
	weights = append(weights,
		weight{136, []part{{device.F8E4M3, 72}, {device.BF16, 24}}},
		weight{72, []part{{device.F32, 7}, {device.F8E4M3, 130}, {device.F16, 3}}},
	)
	for _, w := range weights {
		var sources []device.MatrixSource
		var decoded []matrix
		var tolerances []float64 // by output
		for _, p := range w.parts {
			src, m := e.matrix(p.t, p.rows, w.cols, 1/math.Sqrt(float64(w.cols)))
			sources, decoded = append(sources, src), append(decoded, m)
			tolerances = append(tolerances, slices.Repeat([]float64{e.toleranceOf(p.t)}, p.rows)...)
		}
		m := stack(decoded...)
		loaded := must(e.dev.LoadMatrix(e.arithmetic, sources...))
		for _, src := range sources { // only read while the matrix loads
			clear(src.Data)
			clear(src.Scales)
		}
		what := fmt.Sprintf("parts %v of %d columns", w.parts, w.cols)
		if loaded.Rows() != m.rows || loaded.Cols() != m.cols || loaded.Bytes() <= 0 {
			return fmt.Errorf("%s: matrix says [%d, %d] in %d bytes", what, loaded.Rows(), loaded.Cols(), loaded.Bytes())
		}
		for _, rows := range []int{1, pick(e, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 70)} {
			if err := e.linear(what, loaded, m, tolerances, rows, false); err != nil {
				return err
			}
		}
		if err := e.linear(what+" added", loaded, m, tolerances, e.between(1, 9), true); err != nil {
			return err
		}
	}
	return nil
}

// linear checks one product. The destination has the activations' type, or
// float32 as for logits.
func (e *env) linear(what string, loaded device.Matrix, m matrix, tolerances []float64, rows int, add bool) error {
	src := e.normal(e.act, rows*m.cols, 1)
	var want, mag []float64
	for r := range rows {
		y, size := m.apply(src[r*m.cols : (r+1)*m.cols])
		want, mag = append(want, y...), append(mag, size...)
	}
	dst := e.alloc(pick(e, e.act, device.F32), rows, m.rows)
	if add {
		before := e.normal(dst.Type, len(want), 1)
		dst.fill(before)
		for i := range want {
			want[i] += before[i]
			mag[i] += math.Abs(before[i])
		}
	}
	in := e.tensor(e.act, m.cols, src)
	e.dev.Linear(dst.Tensor, in.Tensor, loaded, add)
	tolerance := func(col int) float64 { return tolerances[col] }
	if err := compareWithin(fmt.Sprintf("%s, %d rows", what, rows), dst.read(), want, mag, m.rows, tolerance); err != nil {
		return err
	}
	if !slices.Equal(in.read(), src) {
		return fmt.Errorf("%s: the input changed", what)
	}
	return nil
}
