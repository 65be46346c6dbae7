package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"latent/device"
	"latent/device/cuda/driver"
)

// mhaSeq is a run of a test of attention over expanded keys: rows at positions
// from prefix on, which see the keys from position from on.
type mhaSeq struct {
	prefix, rows, from int
	mask               mhaMask
}

// mhaMask says what a run's selection holds.
type mhaMask int

const (
	maskNone   mhaMask = iota // no selection
	maskRandom                // a third of the keys; every seventh row none
	maskAll
	maskEmpty
)

// mhaScene is a call of MHA with random inputs on the device, which are also
// here.
type mhaScene struct {
	mhaCall
	d            *Device
	q_, kv_, kr_ []uint16
	mask_        []uint32
	inRun        []bool // [T]
	outMem       *memory
	lseMem       *memory
}

const mhaPoison = 0x7f // a NaN of bfloat16 and float32 when repeated

// newMHAScene draws a call. Between the runs are rows and keys of no run; such
// keys are NaN.
func newMHAScene(t testing.TB, d *Device, rng *rand.Rand, sizes mhaSizes, heads int, seqs []mhaSeq) *mhaScene {
	s := &mhaScene{d: d}
	s.mhaSizes, s.heads = sizes, heads
	s.scale = float32(1.37 / math.Sqrt(float64(sizes.nope+sizes.rope)))
	selRows, context := 0, 0
	for i, q := range seqs {
		s.rows += rng.IntN(3)
		r := device.Run{Row: s.rows, Rows: q.rows, Pos: q.prefix, KeyFrom: q.from, KeyTo: q.prefix + q.rows, Sel: -1}
		if i%3 == 2 && r.KeyTo-r.KeyFrom > 2 {
			r.KeyTo -= rng.IntN(3)
		}
		s.keys += rng.IntN(3)
		r.Keys = s.keys
		if q.mask != maskNone {
			r.Sel = selRows + rng.IntN(2)
			selRows = r.Sel + q.rows
			context = max(context, q.prefix+q.rows)
		}
		s.rows += q.rows
		s.keys += r.KeyTo - r.KeyFrom
		s.runs = append(s.runs, r)
	}
	s.pitch = divUp(context+rng.IntN(300), 128) * 4
	s.inRun = make([]bool, s.rows)
	for _, r := range s.runs {
		for i := range r.Rows {
			s.inRun[r.Row+i] = true
		}
	}

	wide := sizes.nope + sizes.value
	s.q_ = mhaNormals(rng, s.rows*heads*(sizes.nope+sizes.rope))
	s.kv_, s.kr_ = mhaNaNs(s.keys*heads*wide), mhaNaNs(s.keys*sizes.rope)
	for _, r := range s.runs {
		n := r.KeyTo - r.KeyFrom
		copy(s.kv_[r.Keys*heads*wide:], mhaNormals(rng, n*heads*wide))
		copy(s.kr_[r.Keys*sizes.rope:], mhaNormals(rng, n*sizes.rope))
	}
	s.mask_ = make([]uint32, selRows*s.pitch)
	for i, r := range s.runs {
		for j := range r.Rows {
			if r.Sel < 0 {
				break
			}
			row := s.mask_[(r.Sel+j)*s.pitch:][:s.pitch]
			for p := range r.Pos + j + 1 {
				if seqs[i].mask == maskAll || seqs[i].mask == maskRandom && j%7 != 3 && rng.IntN(3) == 0 {
					row[p/128*4+p%8/2] |= 1 << (p%128/8*2 + p%2)
				}
			}
		}
	}
	s.q, s.kv, s.ropes = mhaUpload(t, d, s.q_), mhaUpload(t, d, s.kv_), mhaUpload(t, d, s.kr_)
	s.mask = mhaUpload(t, d, s.mask_)
	// A row of guards before and after the outputs.
	s.outMem = mhaAlloc(t, d, int64(2*(s.rows+2)*heads*sizes.value))
	s.lseMem = mhaAlloc(t, d, int64(4*(s.rows+2)*heads))
	s.out = s.outMem.addr + driver.Ptr(2*heads*sizes.value)
	s.lse = s.lseMem.addr + driver.Ptr(4*heads)
	d.Begin(&device.Step{Tokens: make([]int32, s.rows), Positions: make([]int32, s.rows), Slots: make([]int32, s.rows)})
	return s
}

// mhaNormals draws standard normal numbers of bfloat16.
func mhaNormals(rng *rand.Rand, n int) []uint16 {
	v := make([]uint16, n)
	for i := range v {
		v[i] = uint16(math.Float32bits(float32(rng.NormFloat64())) >> 16)
	}
	return v
}

func mhaNaNs(n int) []uint16 {
	v := make([]uint16, n)
	for i := range v {
		v[i] = 0xffff
	}
	return v
}

func mhaFloat(v uint16) float64 { return float64(math.Float32frombits(uint32(v) << 16)) }

// mhaAlloc allocates memory until the test's end.
func mhaAlloc(t testing.TB, d *Device, bytes int64) *memory {
	m, err := d.alloc(bytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Free)
	return m
}

// mhaUpload copies v to memory of its own.
func mhaUpload[T uint16 | uint32](t testing.TB, d *Device, v []T) driver.Ptr {
	data, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		t.Fatal(err)
	}
	m := mhaAlloc(t, d, int64(len(data)))
	if len(data) > 0 {
		d.exec.UploadBytes(m.addr, data)
	}
	return m.addr
}

// run poisons the outputs, calls f and reads them: out [T+2][H·dv] and lse
// [T+2][H], with the guards.
func (s *mhaScene) run(t *testing.T, f func()) (out []uint16, lse []float32) {
	s.d.exec.Fill(s.outMem.addr, mhaPoison, s.outMem.bytes)
	s.d.exec.Fill(s.lseMem.addr, mhaPoison, s.lseMem.bytes)
	f()
	if err := s.d.Sync(); err != nil {
		t.Fatal(err)
	}
	outBytes, lseBytes := make([]byte, s.outMem.bytes), make([]byte, s.lseMem.bytes)
	if err := s.d.exec.Download(outBytes, s.outMem.addr); err != nil {
		t.Fatalf("kernel: %v", err)
	}
	if err := s.d.exec.Download(lseBytes, s.lseMem.addr); err != nil {
		t.Fatalf("kernel: %v", err)
	}
	out, lse = make([]uint16, len(outBytes)/2), make([]float32, len(lseBytes)/4)
	for i := range out {
		out[i] = binary.LittleEndian.Uint16(outBytes[2*i:])
	}
	for i := range lse {
		lse[i] = math.Float32frombits(binary.LittleEndian.Uint32(lseBytes[4*i:]))
	}
	return out, lse
}

// untouched checks that rows of no run and the guards still hold poison.
func (s *mhaScene) untouched(out []uint16, lse []float32) error {
	n := s.heads * s.value
	for row := -1; row <= s.rows; row++ {
		if row >= 0 && row < s.rows && s.inRun[row] {
			continue
		}
		for i, v := range out[(row+1)*n : (row+2)*n] {
			if v != mhaPoison<<8|mhaPoison {
				return fmt.Errorf("row %d, in no run, was written: element %d", row, i)
			}
		}
		for h, v := range lse[(row+1)*s.heads : (row+2)*s.heads] {
			if math.Float32bits(v) != 0x7f7f7f7f {
				return fmt.Errorf("lse of row %d, in no run, was written: head %d", row, h)
			}
		}
	}
	return nil
}

// reference computes a row of a run for one head in float64.
func (s *mhaScene) reference(r device.Run, i, head int) (out []float64, lse float64) {
	dim, wide := s.nope+s.rope, s.nope+s.value
	q := s.q_[((r.Row+i)*s.heads+head)*dim:][:dim]
	out = make([]float64, s.value)
	var scores []float64
	var keys []int
	top := math.Inf(-1)
	for p := r.KeyFrom; p < min(r.KeyTo, r.Pos+i+1); p++ {
		if r.Sel >= 0 && s.mask_[(r.Sel+i)*s.pitch+p/128*4+p%8/2]>>(p%128/8*2+p%2)&1 == 0 {
			continue
		}
		key := r.Keys + p - r.KeyFrom
		k, kr := s.kv_[(key*s.heads+head)*wide:], s.kr_[key*s.rope:]
		sum := 0.0
		for j := range s.nope {
			sum += mhaFloat(q[j]) * mhaFloat(k[j])
		}
		for j := range s.rope {
			sum += mhaFloat(q[s.nope+j]) * mhaFloat(kr[j])
		}
		scores, keys = append(scores, sum*float64(s.scale)), append(keys, key)
		top = max(top, sum*float64(s.scale))
	}
	if len(keys) == 0 {
		return out, math.Inf(-1)
	}
	total := 0.0
	for j, key := range keys {
		w := math.Exp(scores[j] - top)
		total += w
		for c := range out {
			out[c] += w * mhaFloat(s.kv_[(key*s.heads+head)*wide+s.nope+c])
		}
	}
	for c := range out {
		out[c] /= total
	}
	return out, top + math.Log(total)
}

// checkReference compares some rows, first and last ones among them, with
// float64.
func (s *mhaScene) checkReference(rng *rand.Rand, out []uint16, lse []float32, samples int) error {
	var diff, norm float64
	for n := range samples {
		r := s.runs[rng.IntN(len(s.runs))]
		i, head := rng.IntN(r.Rows), rng.IntN(s.heads)
		if n%4 == 0 {
			i = r.Rows - 1
		} else if n%4 == 1 {
			i = 0
		}
		want, wantLSE := s.reference(r, i, head)
		at := (r.Row+i+1)*s.heads + head
		if got := float64(lse[at]); got != wantLSE && !(math.Abs(got-wantLSE) < 2e-3) {
			return fmt.Errorf("%+v row %d head %d: lse %v, want %v", r, i, head, got, wantLSE)
		}
		var d, w float64
		for c := range want {
			e := mhaFloat(out[at*s.value+c]) - want[c]
			d, w = d+e*e, w+want[c]*want[c]
		}
		if !(math.Sqrt(d) <= 1.5e-2*math.Sqrt(w)) {
			return fmt.Errorf("%+v row %d head %d: relative error %.3g; got %v…, want %.4v…", r, i, head, math.Sqrt(d/w),
				mhaFloats(out[at*s.value:]), want[:4])
		}
		diff, norm = diff+d, norm+w
	}
	if !(math.Sqrt(diff) <= 4e-3*math.Sqrt(norm)) {
		return fmt.Errorf("relative error %.3g over %d rows", math.Sqrt(diff/norm), samples)
	}
	return nil
}

func mhaFloats(v []uint16) []float64 {
	var f []float64
	for _, x := range v[:4] {
		f = append(f, mhaFloat(x))
	}
	return f
}

// compare checks the fast kernel's outputs against the generic one's.
func (s *mhaScene) compare(out, wantOut []uint16, lse, wantLSE []float32) error {
	var diff, norm float64
	worst, at, bad, first := 0.0, 0, 0, -1
	for i := range out {
		if row := i/(s.heads*s.value) - 1; row < 0 || row >= s.rows || !s.inRun[row] {
			continue
		}
		a, b := mhaFloat(out[i]), mhaFloat(wantOut[i])
		e := math.Abs(a - b)
		diff, norm = diff+e*e, norm+b*b
		if !(e <= 0.05) {
			bad++
			if first < 0 {
				first = i
			}
		}
		if e > worst {
			worst, at = e, i
		}
	}
	where := func(i int) string {
		return fmt.Sprintf("row %d head %d column %d: %v, want %v", i/(s.heads*s.value)-1, i/s.value%s.heads, i%s.value, mhaFloat(out[i]), mhaFloat(wantOut[i]))
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d elements are wrong, the first at %s", bad, len(out), where(first))
	}
	if !(math.Sqrt(diff) <= 4e-3*math.Sqrt(norm)) {
		return fmt.Errorf("relative error %.3g; largest at %s", math.Sqrt(diff/norm), where(at))
	}
	for i := range lse {
		if row := i/s.heads - 1; row < 0 || row >= s.rows || !s.inRun[row] {
			continue
		}
		if lse[i] != wantLSE[i] && !(math.Abs(float64(lse[i]-wantLSE[i])) < 1e-3) {
			return fmt.Errorf("lse of row %d head %d: %v, want %v", i/s.heads-1, i%s.heads, lse[i], wantLSE[i])
		}
	}
	return nil
}

// check runs both kernels and compares them with one another and with float64.
func (s *mhaScene) check(t *testing.T, rng *rand.Rand) {
	t.Helper()
	wantOut, wantLSE := s.run(t, func() {
		s.d.mhaGeneric(&s.mhaCall, false)
		s.d.mhaGeneric(&s.mhaCall, true)
	})
	if err := s.untouched(wantOut, wantLSE); err != nil {
		t.Errorf("generic: %v", err)
	}
	if err := s.checkReference(rng, wantOut, wantLSE, 16); err != nil {
		t.Errorf("generic: %v", err)
	}
	for range 2 { // the second call meets the counter as the first has left it
		out, lse := s.run(t, func() { s.d.mha(&s.mhaCall) })
		if err := s.untouched(out, lse); err != nil {
			t.Errorf("fast: %v", err)
		}
		if err := s.checkReference(rng, out, lse, 16); err != nil {
			t.Errorf("fast: %v", err)
		}
		if err := s.compare(out, wantOut, lse, wantLSE); err != nil {
			t.Errorf("fast against generic: %v", err)
		}
	}
}

var (
	deepseekSizes = mhaSizes{128, 64, 128}
	glmSizes      = mhaSizes{192, 64, 256}
)

func TestMHALengths(t *testing.T) {
	d := newTestDevice(t)
	for _, sizes := range []mhaSizes{deepseekSizes, glmSizes} {
		for _, mask := range []mhaMask{maskNone, maskRandom} {
			for _, rows := range []int{1, 63, 64, 65, 127, 128, 129, 191, 257, 1000} {
				for _, prefix := range []int{0, 1, 64, 1000} {
					t.Run(fmt.Sprintf("%v/mask=%d/%d+%d", sizes, mask, prefix, rows), func(t *testing.T) {
						rng := rand.New(rand.NewPCG(uint64(rows), uint64(prefix)))
						newMHAScene(t, d, rng, sizes, 2, []mhaSeq{{prefix, rows, 0, mask}}).check(t, rng)
					})
				}
			}
		}
	}
}

func TestMHARagged(t *testing.T) {
	d := newTestDevice(t)
	n, r := maskNone, maskRandom
	for name, seqs := range map[string][]mhaSeq{
		"dense":    {{0, 137, 0, n}, {5, 300, 0, n}, {0, 64, 0, n}, {700, 1, 0, n}, {0, 1, 0, n}, {129, 255, 0, n}, {0, 515, 0, n}},
		"masked":   {{0, 137, 0, r}, {5, 300, 0, r}, {0, 64, 0, maskAll}, {700, 1, 0, r}, {0, 40, 0, maskEmpty}, {129, 255, 0, r}, {0, 515, 0, r}},
		"mixed":    {{0, 137, 0, n}, {5, 300, 0, r}, {0, 64, 0, n}, {700, 1, 0, maskEmpty}, {0, 1, 0, n}, {129, 255, 0, maskAll}, {0, 515, 0, n}},
		"chunks":   {{0, 300, 64, n}, {64, 70, 64, n}, {500, 100, 448, n}, {500, 140, 128, n}, {0, 700, 690, n}, {10, 130, 77, n}},
		"chunks_m": {{0, 300, 64, r}, {64, 70, 64, r}, {500, 100, 448, maskAll}, {500, 140, 128, r}, {0, 700, 690, maskAll}, {10, 130, 77, r}},
	} {
		for _, sizes := range []mhaSizes{deepseekSizes, glmSizes} {
			for _, heads := range []int{1, 4, 16, 20, 32, 128} {
				if heads > 20 && (sizes != deepseekSizes || name == "mixed") {
					continue
				}
				t.Run(fmt.Sprintf("%v/%s/H=%d", sizes, name, heads), func(t *testing.T) {
					rng := rand.New(rand.NewPCG(uint64(heads), 7))
					newMHAScene(t, d, rng, sizes, heads, seqs).check(t, rng)
				})
			}
		}
	}
}

// TestMHAGeneric: head sizes without a fast kernel.
func TestMHAGeneric(t *testing.T) {
	d := newTestDevice(t)
	for _, sizes := range []mhaSizes{{16, 8, 24}, {20, 12, 14}, {33, 2, 7}, {128, 64, 128}, {64, 0, 256}, {256, 256, 256}} {
		for _, mask := range []mhaMask{maskNone, maskRandom, maskAll} {
			t.Run(fmt.Sprintf("%v/mask=%d", sizes, mask), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(sizes.nope), uint64(mask)))
				seqs := []mhaSeq{{0, 65, 0, mask}, {0, 1, 0, mask}, {63, 2, 0, mask}, {37, 9, 3, mask}, {130, 150, 64, mask}}
				s := newMHAScene(t, d, rng, sizes, 5, seqs)
				out, lse := s.run(t, func() {
					d.mhaGeneric(&s.mhaCall, false)
					d.mhaGeneric(&s.mhaCall, true)
				})
				if err := s.untouched(out, lse); err != nil {
					t.Error(err)
				}
				if err := s.checkReference(rng, out, lse, 400); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
