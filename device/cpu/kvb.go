package cpu

import (
	"encoding/binary"
	"fmt"
	"math"

	"latent/device"
	"latent/device/cpu/kern"
)

// kvb implements device.KVB: per head W_Kᵀ as a weight [R, dn], which absorbs
// queries as it is and expands keys after transposing 32x32 tiles, and W_V as a
// weight [dv, R].
type kvb struct {
	nope, value, latent int
	k, v                []packed // by head
}

func (w *kvb) Heads() int  { return len(w.k) }
func (w *kvb) Nope() int   { return w.nope }
func (w *kvb) Value() int  { return w.value }
func (w *kvb) Latent() int { return w.latent }

func (w *kvb) Bytes() int64 {
	var n int64
	for h := range w.k {
		n += w.k[h].bytes() + w.v[h].bytes()
	}
	return n
}

func kvbOf(op string, w device.KVB) *kvb {
	k, ok := w.(*kvb)
	if !ok {
		panic(fmt.Sprintf("cpu: %s: kv_b is a %T", op, w))
	}
	return k
}

// LoadKVB implements device.Device.
func (d *Device) LoadKVB(arithmetic device.DType, heads, nope, value int, w device.MatrixSource) (device.KVB, error) {
	if w.Rows != heads*(nope+value) {
		return nil, fmt.Errorf("cpu: load %s: %d rows for %d heads of %d+%d", w.Name, w.Rows, heads, nope, value)
	}
	if err := checkSource(w); err != nil {
		return nil, err
	}
	if w.Type == device.F8E4M3 && !headsAlign(heads, nope, value) {
		w = widen(w)
	}
	matrices := make([]stack, 2*heads)
	d.parallel(heads, func(_ *arena, h int) {
		from := h * (nope + value)
		matrices[h].parts = []device.MatrixSource{transposeSource(rowsOfSource(w, from, nope))}
		matrices[heads+h].parts = []device.MatrixSource{rowsOfSource(w, from+nope, value)}
	})
	ws, err := d.pack(arithmetic, matrices)
	if err != nil {
		return nil, err
	}
	return &kvb{nope: nope, value: value, latent: w.Cols, k: ws[:heads], v: ws[heads:]}, nil
}

// headsAlign tells whether the rows of every head's W_K and W_V fall into the
// same 128-blocks of scales as if they began a matrix of their own.
func headsAlign(heads, nope, value int) bool {
	aligned := func(from, n int) bool {
		for i := range n {
			if (from+i)/kern.ScaleBlock-from/kern.ScaleBlock != i/kern.ScaleBlock {
				return false
			}
		}
		return true
	}
	for h := range heads {
		from := h * (nope + value)
		if !aligned(from, nope) || !aligned(from+nope, value) {
			return false
		}
	}
	return true
}

// rowsOfSource returns n rows of w; scale blocks must align.
func rowsOfSource(w device.MatrixSource, from, n int) device.MatrixSource {
	row := w.Cols * w.Type.Size()
	w.Data = w.Data[from*row:][:n*row]
	w.Rows = n
	if w.Type == device.F8E4M3 {
		w.Scales = w.Scales[from/kern.ScaleBlock*blocks(w.Cols):][:blocks(n)*blocks(w.Cols)]
	}
	return w
}

// transposeSource returns wᵀ.
func transposeSource(w device.MatrixSource) device.MatrixSource {
	t := w
	t.Rows, t.Cols = w.Cols, w.Rows
	size := w.Type.Size()
	t.Data = make([]byte, len(w.Data))
	for r := range w.Rows {
		for c := range w.Cols {
			copy(t.Data[(c*w.Rows+r)*size:][:size], w.Data[(r*w.Cols+c)*size:])
		}
	}
	if w.Type == device.F8E4M3 {
		br, bc := blocks(w.Rows), blocks(w.Cols)
		t.Scales = make([]float32, br*bc)
		for r := range br {
			for c := range bc {
				t.Scales[c*br+r] = w.Scales[r*bc+c]
			}
		}
	}
	return t
}

// widen returns an F8E4M3 matrix as BF16 if that holds it exactly, else as F32.
func widen(w device.MatrixSource) device.MatrixSource {
	t := device.MatrixSource{Name: w.Name, Rows: w.Rows, Cols: w.Cols, Type: device.F32}
	if fitsBF16(w) {
		t.Type = device.BF16
	}
	for i, b := range w.Data {
		r, c := i/w.Cols, i%w.Cols
		v := device.F32FromF8(b) * w.Scales[r/kern.ScaleBlock*blocks(w.Cols)+c/kern.ScaleBlock]
		if t.Type == device.BF16 {
			t.Data = binary.LittleEndian.AppendUint16(t.Data, device.BF16FromF32(v))
		} else {
			t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(v))
		}
	}
	return t
}

// Absorb implements device.Device.
func (d *Device) Absorb(dst, q device.Tensor, w device.KVB, runs []device.Run) {
	b := kvbOf("Absorb", w)
	rows, heads := d.rowsOf("Absorb", runs), b.Heads()
	if dst.Cols%heads != 0 || q.Cols%heads != 0 || dst.Cols/heads-b.latent != q.Cols/heads-b.nope || dst.Rows != len(rows) || q.Rows != len(d.step.Tokens) {
		panic(fmt.Sprintf("cpu: Absorb: dst %s for %d rows, q %s, %d heads of %d to %d", shape(dst), len(rows), shape(q), heads, b.nope, b.latent))
	}
	out, in := floats("Absorb", "dst", dst), floats("Absorb", "q", q)
	width, head := dst.Cols/heads, q.Cols/heads
	if len(rows) == 0 {
		return
	}
	t := d.tile(len(rows), &b.k[0], heads)
	d.parallel(heads*t.items(), func(ws *arena, item int) {
		h := item / t.items()
		r0, r1, p0, p1 := t.item(item % t.items())
		last := min(b.latent, p1*kern.N)
		for i := r0; i < r1; i++ { // in order of addresses: rows come from memory
			y := out[i*dst.Cols+h*width:][:width]
			clear(y[p0*kern.N : last])
			if last == b.latent {
				copy(y[last:], in[int(rows[i])*q.Cols+h*head+b.nope:])
			}
		}
		d.multiply(ws, &b.k[h], operand{x: in[h*head:], ld: q.Cols, rows: rows}, r0, r1, p0, p1, out[r0*dst.Cols+h*width+p0*kern.N:], dst.Cols)
	})
}

// Unabsorb implements device.Device.
func (d *Device) Unabsorb(out, z device.Tensor, w device.KVB, runs []device.Run) {
	b := kvbOf("Unabsorb", w)
	rows, heads := d.rowsOf("Unabsorb", runs), b.Heads()
	wantShape("Unabsorb", "z", z, len(rows), heads*b.latent)
	wantShape("Unabsorb", "out", out, len(d.step.Tokens), heads*b.value)
	y, x := floats("Unabsorb", "out", out), floats("Unabsorb", "z", z)
	if len(rows) == 0 {
		return
	}
	t := d.tile(len(rows), &b.v[0], heads)
	d.parallel(heads*t.items(), func(ws *arena, item int) {
		h := item / t.items()
		r0, r1, p0, p1 := t.item(item % t.items())
		n := min(b.value, p1*kern.N) - p0*kern.N
		c := ws.floats((r1 - r0) * n)
		clear(c)
		d.multiply(ws, &b.v[h], operand{x: x[h*b.latent:], ld: z.Cols}, r0, r1, p0, p1, c, n)
		for i := r0; i < r1; i++ {
			copy(y[int(rows[i])*out.Cols+h*b.value+p0*kern.N:][:n], c[(i-r0)*n:])
		}
	})
}
