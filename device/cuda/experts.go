package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"latent/device"
	"latent/device/cuda/driver"
)

// experts implements device.Experts.
//
// Gate and up of an expert are one matrix in which groups of 8 rows alternate:
// 8 of gate, the same 8 of up, so that one thread of a product holds both. If
// inner is no multiple of 8, the last groups are padded.
type experts struct {
	dev                  *Device
	count, hidden, inner int
	form                 expertForm
	mem                  *memory
	// In mem: gate and up [count, gateUpRows, hidden], down [count, hidden,
	// inner], and for expertF8 the scales of both as grouped.cu reads them.
	gateUp, down             driver.Ptr
	gateUpScales, downScales driver.Ptr
	gateUpMap, downMap       driver.TensorMap // unless expertGeneric
	plan                     *moePlan         // of the last call
}

// expertForm says how the weights of experts are stored and multiplied.
type expertForm uint8

const (
	expertGeneric expertForm = iota // bf16, for any dimensions
	expertBF16                      // bf16, grouped.cu
	expertF8                        // e4m3 with 128x128 scales, inputs rounded to e4m3 in blocks of 128
)

// chooseExpertForm returns the form for experts of these dimensions. The copy
// engine wants rows of a multiple of 16 bytes; e4m3 stays as it is if its blocks
// are whole.
func chooseExpertForm(sources []device.ExpertSource, hidden, inner int) expertForm {
	if hidden%8 != 0 || inner%8 != 0 {
		return expertGeneric
	}
	if hidden%128 != 0 || inner%128 != 0 {
		return expertBF16
	}
	for i := range sources {
		s := &sources[i]
		if s.Gate.Type != device.F8E4M3 || s.Up.Type != device.F8E4M3 || s.Down.Type != device.F8E4M3 {
			return expertBF16
		}
	}
	return expertF8
}

func (e *experts) Count() int   { return e.count }
func (e *experts) Bytes() int64 { return e.mem.bytes }

func (e *experts) gateUpRows() int { return 2 * roundUp(e.inner, 8) }

// weightBytes is the size of a weight.
func (f expertForm) weightBytes() int {
	if f == expertF8 {
		return 1
	}
	return 2
}

// maxExperts bounds the experts of a layer: moe_route has a thread for each.
const maxExperts = 1024

// LoadExperts implements device.Device. Sources pass through the device one
// after another, so that the host holds no copy of them.
func (d *Device) LoadExperts(arithmetic device.DType, sources []device.ExpertSource) (device.Experts, error) {
	if err := wantBF16("load experts", arithmetic); err != nil {
		return nil, err
	}
	if n := len(sources); n == 0 || n > maxExperts {
		return nil, fmt.Errorf("cuda: load: a layer with %d experts; want 1 to %d", n, maxExperts)
	}
	e := &experts{dev: d, count: len(sources), hidden: sources[0].Gate.Cols, inner: sources[0].Gate.Rows}
	staged := 0
	for i := range sources {
		for _, p := range e.projections(&sources[i]) {
			if p.src.Rows != p.rows || p.src.Cols != p.cols {
				return nil, fmt.Errorf("cuda: load %s: [%d, %d], want [%d, %d] like the other experts", p.src.Name, p.src.Rows, p.src.Cols, p.rows, p.cols)
			}
			if err := checkSource(p.src); err != nil {
				return nil, err
			}
			staged = max(staged, roundUp(len(p.src.Data), 256)+4*len(p.src.Scales))
		}
	}
	e.form = chooseExpertForm(sources, e.hidden, e.inner)
	if err := e.alloc(); err != nil {
		return nil, fmt.Errorf("cuda: load %s: %w", sources[0].Gate.Name, err)
	}
	if err := e.fill(sources, staged); err != nil {
		e.mem.Free()
		return nil, err
	}
	return e, nil
}

// projection is one matrix of an expert on its way to the device.
type projection struct {
	src        *device.MatrixSource
	rows, cols int
	alternate  int32      // as in struct ExpertRowsParams
	matrix     driver.Ptr // of the first expert
	matrixRows int
}

func (e *experts) projections(s *device.ExpertSource) [3]projection {
	return [3]projection{
		{&s.Gate, e.inner, e.hidden, 1, e.gateUp, e.gateUpRows()},
		{&s.Up, e.inner, e.hidden, 2, e.gateUp, e.gateUpRows()},
		{&s.Down, e.hidden, e.inner, 0, e.down, e.hidden},
	}
}

// alloc takes the memory and describes it to the copy engine.
func (e *experts) alloc() error {
	size := int64(e.form.weightBytes())
	gateUp := align256(int64(e.count) * int64(e.gateUpRows()) * int64(e.hidden) * size)
	down := align256(int64(e.count) * int64(e.hidden) * int64(e.inner) * size)
	var gateUpScales, downScales int64
	if e.form == expertF8 {
		gateUpScales = align256(8 * int64(e.count*e.gateUpBlocks()) * int64(e.hidden/128))
		downScales = align256(8 * int64(e.count*e.downBlocks()) * int64(e.inner/128))
	}
	var err error
	if e.mem, err = e.dev.alloc(gateUp + down + gateUpScales + downScales); err != nil {
		return err
	}
	e.gateUp = e.mem.addr
	e.down = e.gateUp + driver.Ptr(gateUp)
	e.gateUpScales = e.down + driver.Ptr(down)
	e.downScales = e.gateUpScales + driver.Ptr(gateUpScales)
	if e.form == expertGeneric {
		return nil
	}
	e.gateUpMap, err = e.weightMap(e.gateUp, e.gateUpRows(), e.hidden)
	if err == nil {
		e.downMap, err = e.weightMap(e.down, e.hidden, e.inner)
	}
	return err
}

// gateUpBlocks and downBlocks are the tiles of outputs of grouped.cu.
func (e *experts) gateUpBlocks() int { return divUp(e.gateUpRows(), groupedOutputs) }
func (e *experts) downBlocks() int   { return divUp(e.hidden, groupedOutputs) }

// weightMap describes weights [count, rows, cols].
func (e *experts) weightMap(base driver.Ptr, rows, cols int) (driver.TensorMap, error) {
	row := uint64(cols * e.form.weightBytes())
	return driver.EncodeTensorMap(e.dev.cuda, driver.TensorMapSpec{
		Type: e.form.mapType(), Base: base,
		Dims:    []uint64{uint64(cols), uint64(rows), uint64(e.count)},
		Strides: []uint64{row, row * uint64(rows)},
		Box:     []uint32{uint32(128 / e.form.weightBytes()), groupedOutputs, 1}, Swizzle: 128,
	})
}

func (f expertForm) mapType() driver.MapType {
	if f == expertF8 {
		return driver.Map8
	}
	return driver.MapBF16
}

// expertRowsParams mirrors struct ExpertRowsParams of moe.cu.
type expertRowsParams struct {
	Src, Scales, Dst, Bad    driver.Ptr
	Type, Rows, Cols, Matrix int32
	Keep, Alternate          int32
}

// fill lays out the weights. staged is the size of the largest source with its
// scales; one at a time is on the device.
func (e *experts) fill(sources []device.ExpertSource, staged int) error {
	d := e.dev
	staging, err := d.alloc(256 + int64(staged))
	if err != nil {
		return fmt.Errorf("cuda: load %s: %w", sources[0].Gate.Name, err)
	}
	defer staging.Free()
	bad, data := staging.addr, staging.addr+256
	d.exec.Fill(bad, 0, 4)
	kernel := d.kernel("moe", "expert_rows")
	for i := range sources {
		for j, p := range e.projections(&sources[i]) {
			params := expertRowsParams{
				Src: data, Scales: data + driver.Ptr(roundUp(len(p.src.Data), 256)),
				Dst: p.matrix + driver.Ptr(i)*driver.Ptr(p.matrixRows*p.cols*e.form.weightBytes()), Bad: bad,
				Type: int32(p.src.Type), Rows: int32(p.rows), Cols: int32(p.cols), Matrix: int32(3*i + j),
				Alternate: p.alternate,
			}
			if e.form == expertF8 {
				params.Keep = 1
			} else if p.src.Type == device.F8E4M3 {
				d.exec.UploadBytes(params.Scales, floatBytes(nil, p.src.Scales...))
			}
			d.exec.UploadBytes(data, p.src.Data)
			launch(d, kernel, [3]uint32{uint32(divUp(p.cols, 256)), uint32(p.rows), 1}, block1(256), 0, &params)
		}
	}
	if e.form == expertF8 {
		d.exec.UploadBytes(e.gateUpScales, e.packGateUpScales(sources))
		d.exec.UploadBytes(e.downScales, e.packDownScales(sources))
	}
	var found [4]byte
	if err := errors.Join(d.err, d.exec.Download(found[:], bad)); err != nil {
		return fmt.Errorf("cuda: load %s and the layer's other experts: %w", sources[0].Gate.Name, err)
	}
	if n := int(binary.LittleEndian.Uint32(found[:])) - 1; n >= 0 {
		return fmt.Errorf("cuda: load %s: a weight is NaN; is the checkpoint damaged?", e.projections(&sources[n/3])[n%3].src.Name)
	}
	return nil
}

// packGateUpScales returns float32 [count, inner/128, hidden/128, 2]: the scales
// of gate and up in a tile of 256 rows.
func (e *experts) packGateUpScales(sources []device.ExpertSource) []byte {
	var out []byte
	for i := range sources {
		gate, up := sources[i].Gate.Scales, sources[i].Up.Scales
		for j := range gate {
			out = floatBytes(out, gate[j], up[j])
		}
	}
	return out
}

// packDownScales returns float32 [count, ceil(hidden/256), inner/128, 2]: the
// scales of the first and the second 128 rows of a tile of 256.
func (e *experts) packDownScales(sources []device.ExpertSource) []byte {
	var out []byte
	cols := e.inner / 128
	for i := range sources {
		s := sources[i].Down.Scales
		for top := 0; top < e.hidden/128; top += 2 {
			for c := range cols {
				second := float32(0)
				if top+1 < e.hidden/128 {
					second = s[(top+1)*cols+c]
				}
				out = floatBytes(out, s[top*cols+c], second)
			}
		}
	}
	return out
}

// floatBytes appends values as a device reads them.
func floatBytes(out []byte, values ...float32) []byte {
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

func align256(n int64) int64 { return (n + 255) &^ 255 }
