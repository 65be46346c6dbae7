package cuda

import (
	"fmt"
	"unsafe"

	"latent/device"
	"latent/device/cuda/driver"
)

// What index_scores.cu and index_generic.cu are compiled with.
const (
	scoreDim      = 128 // elements of a head
	scoreMaxHeads = 64
	scoreMaxRuns  = 512 // MAX_RUNS
	scoreThreads  = 384
	// genericScoreDim is the largest head that index_generic.cu takes.
	genericScoreDim     = 256 // MAX_DIM
	genericScoreThreads = 256
)

type indexScoresParams struct {
	Queries, Keys, Weights  driver.TensorMap
	Pages                   Pages
	Runs, Pool, Scores      driver.Ptr
	Columns                 int64
	NumRuns, FirstRow, _, _ int32
}

type indexGenericParams struct {
	Queries, Weights, Pool, Scores, Rows driver.Ptr
	Pages                                Pages
	Columns                              int64
	Heads, Dim                           int32
}

// scoreKernel is a unit of index_scores.cu: for up to heads heads, it takes
// group query rows of a run at a time.
type scoreKernel struct {
	f8           bool
	heads, group int
}

// scoreKernelFor returns the kernel for a number of heads, or false if the
// generic one must do it. Runs of one row, in decoding, have a kernel that does
// not multiply for more.
func scoreKernelFor(c *cache, heads int, runs []device.Run) (scoreKernel, bool) {
	k := scoreKernel{f8: c.spec.Format == device.CacheF8, heads: 8, group: 1}
	if c.spec.IndexDim != scoreDim || heads > scoreMaxHeads || heads%4 != 0 || c.spec.Pages == 0 {
		return k, false
	}
	for _, n := range []int{32, 64} {
		if heads > k.heads {
			k.heads = n
		}
	}
	for i := range runs {
		if runs[i].Rows > 1 {
			k.group = 2 * scoreMaxHeads / k.heads
		}
	}
	return k, true
}

func (k scoreKernel) unit() string {
	format := "bf16"
	if k.f8 {
		format = "f8"
	}
	return fmt.Sprintf("index_scores_%s_%dx%d", format, k.heads, k.group)
}

// shared bounds sizeof(Shared).
func (k scoreKernel) shared() int {
	const (
		ring  = 128 << 10                // pages of keys
		small = 16*device.PageTokens*4 + // scales
			scoreMaxRuns*28 + 1024 // runs and their costs, barriers
	)
	columns := k.heads * k.group
	queries := columns * scoreDim
	if !k.f8 {
		queries *= 2
	}
	stages := 4
	if queries > 16<<10 {
		stages = 2
	}
	return ring + stages*(queries+4*max(columns, 32)) + small
}

// IndexScores implements device.Device. With a CacheF8 cache the first half of a
// row of q is codes e4m3 and the weights hold their scales, as IndexQuery leaves
// them.
func (d *Device) IndexScores(scores, q, weights device.Tensor, ca device.Cache, layer int, runs []device.Run) {
	c := cacheOf("IndexScores", ca)
	l := d.list("IndexScores", runs)
	heads, n := weights.Cols, c.spec.IndexDim
	want("IndexScores", "q", q, device.BF16, l.numRows, heads*n)
	want("IndexScores", "weights", weights, device.F32, l.numRows, heads)
	want("IndexScores", "scores", scores, device.F32, l.numRows, scores.Cols)
	for i := range runs {
		if to := visibleKeys(&runs[i]); to > scores.Cols {
			panic(fmt.Sprintf("cuda: IndexScores: %d visible keys for scores %s", to, shape(scores)))
		}
	}
	if l.numRows == 0 || scores.Cols == 0 {
		return
	}
	if k, ok := scoreKernelFor(c, heads, runs); ok {
		d.indexScores(k, scores, q, weights, c, layer, l)
		return
	}
	if n > genericScoreDim {
		panic(fmt.Sprintf("cuda: IndexScores: heads of %d elements, %d is the most", n, genericScoreDim))
	}
	d.indexGeneric(scores, q, weights, c, layer, l)
}

// indexScores runs index_scores.cu on all multiprocessors, for as many runs at a
// time as a block can hold.
func (d *Device) indexScores(k scoreKernel, scores, q, weights device.Tensor, c *cache, layer int, l list) {
	heads, rows := uint64(weights.Cols), uint64(l.numRows)
	p := indexScoresParams{
		Pages: d.pages(), Pool: c.indexKeys(layer), Scores: ptr(scores), Columns: int64(scores.Cols),
	}
	box := []uint32{scoreDim, uint32(k.heads), uint32(k.group)}
	queries := driver.TensorMapSpec{
		Type: driver.Map8, Base: ptr(q), Dims: []uint64{scoreDim, heads, rows},
		Strides: []uint64{scoreDim, 2 * scoreDim * heads}, Box: box, Swizzle: 128,
	}
	keys := driver.TensorMapSpec{
		Type: driver.Map8, Base: p.Pool, Dims: []uint64{scoreDim, device.PageTokens, uint64(c.spec.Pages)},
		Strides: []uint64{scoreDim, uint64(c.indexPage)}, Box: []uint32{scoreDim, device.PageTokens, 1}, Swizzle: 128,
	}
	if !k.f8 {
		box[0] = scoreDim / 2 // 128 bytes
		queries.Type, queries.Strides[0] = driver.MapBF16, 2*scoreDim
		keys.Type, keys.Box = driver.MapBF16, []uint32{scoreDim / 2, device.PageTokens}
		keys.Dims, keys.Strides = []uint64{scoreDim, uint64(c.tokens())}, []uint64{2 * scoreDim}
	}
	p.Queries, p.Keys = d.indexMap(queries), d.indexMap(keys)
	p.Weights = d.indexMap(driver.TensorMapSpec{
		Type: driver.MapF32, Base: ptr(weights), Dims: []uint64{heads, rows}, Strides: []uint64{4 * heads}, Box: box[1:],
	})
	kernel := d.kernel(k.unit(), "index_scores")
	for i := 0; i < l.numRuns; i += scoreMaxRuns {
		n := min(scoreMaxRuns, l.numRuns-i)
		p.Runs, p.NumRuns = l.runs+driver.Ptr(uintptr(i)*unsafe.Sizeof(Run{})), int32(n)
		launch(d, kernel, grid1(d.info.Workers), block1(scoreThreads), k.shared(), &p)
		p.FirstRow += int32(device.RunRows(l.host[i : i+n]))
	}
}

// indexMap is driver.EncodeTensorMap; a failure comes out of Sync.
func (d *Device) indexMap(spec driver.TensorMapSpec) driver.TensorMap {
	m, err := driver.EncodeTensorMap(d.cuda, spec)
	if err != nil {
		d.fail(fmt.Errorf("cuda: IndexScores: %w", err))
	}
	return m
}

func (d *Device) indexGeneric(scores, q, weights device.Tensor, c *cache, layer int, l list) {
	unit := "index_generic_bf16"
	if c.spec.Format == device.CacheF8 {
		unit = "index_generic_f8"
	}
	p := indexGenericParams{
		Queries: ptr(q), Weights: ptr(weights), Pool: c.indexKeys(layer), Scores: ptr(scores), Rows: l.rows, Pages: d.pages(),
		Columns: int64(scores.Cols), Heads: int32(weights.Cols), Dim: int32(c.spec.IndexDim),
	}
	grid := [3]uint32{uint32(l.numRows), uint32(divUp(scores.Cols, device.PageTokens)), 1}
	launch(d, d.kernel(unit, "index_generic"), grid, block1(genericScoreThreads), 0, &p)
}
