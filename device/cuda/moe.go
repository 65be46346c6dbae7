package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

// Routed experts: MoE sorts the pairs (token, choice) by expert on the device,
// gathers the tokens' rows in that order, runs the experts' two products over a
// list of tiles made on the device too, and sums the results for each token.
// The host knows the number of pairs and nothing else, so that the kernels and
// their grids can be captured.

// What grouped.cu, moe_generic.cu and moe.cu are compiled with.
const (
	groupedOutputs = 256    // OUTPUTS
	groupedTokens  = 128    // TOKENS
	groupedBox     = 16     // BOX
	groupedThreads = 384    // a producer and two consumer warp groups
	groupedShared  = 232448 // bounds sizeof(Shared)
	genericTokens  = 64     // ROWS
	genericOutputs = 64     // weights of a tile
	routeWarps     = 32     // ROUTE_WARPS
	routeBlocks    = 8      // of the cluster of moe_route: the portable limit

	// groupTiles is how many tiles of tokens of one expert pass over its weights
	// together: 16 tiles of tokens and the 8 tiles of weights that 132
	// multiprocessors work on beside them are 15 MB each in e4m3 at 7168 inputs,
	// and stay in L2.
	groupTiles = 16
)

// moeSlack is how large the experts' results may be whatever the size of their
// inputs. Beyond, they are computed and summed in pieces of columns.
const moeSlack = 64 << 20

// moeLayout is the scratch memory of a call, in bytes from its start. Per row
// it takes about hidden + 1.03·inner bytes in e4m3, twice that in bf16, and 4 for
// its place: 9.5 KB at hidden 7168 and inner 2048, 76 KB for a token with 8
// experts.
type moeLayout struct {
	place       int64 // i32 [pairs]
	count       int64 // i32, the number of tiles
	tiles       int64 // int4 [tiles]
	inputs      int64 // [rows, hidden], then bf16 [rows, columns] of results
	inputScales int64 // f32 [hidden/128, rows]
	inner       int64 // [rows, inner]
	innerScales int64 // f32 [inner/128, rows]
	bytes       int64
	rows        int // pairs, with up to 3 rows of nothing behind those of an expert
	columns     int // of the results at a time
}

// layoutMoE places the scratch memory for pairs choices of experts.
func layoutMoE(form expertForm, pairs, count, hidden, inner int) moeLayout {
	var l moeLayout
	take := func(bytes int64) (at int64) {
		at, l.bytes = l.bytes, l.bytes+align256(bytes)
		return at
	}
	tokens := groupedTokens
	if form == expertGeneric {
		tokens = genericTokens
	}
	l.rows = roundUp(pairs+3*min(pairs, count), 4)
	n := int64(l.rows)
	l.place, l.count = take(4*int64(pairs)), take(4)
	l.tiles = take(16 * int64(min(pairs, count)+pairs/tokens))
	// Inputs are dead when the results are written. At least 256 columns of
	// those fit: the width of a tile.
	inputs := n * int64(hidden) * int64(form.weightBytes())
	room := max(inputs, min(2*n*int64(hidden), moeSlack), 2*n*int64(min(hidden, groupedOutputs)))
	l.columns = min(hidden, int(room/(2*n)))
	if l.columns < hidden {
		l.columns = l.columns / groupedOutputs * groupedOutputs
	}
	l.inputs, l.inner = take(room), take(n*int64(inner)*int64(form.weightBytes()))
	if form == expertF8 {
		l.inputScales, l.innerScales = take(4*n*int64(hidden/128)), take(4*n*int64(inner/128))
	}
	return l
}

// moePlan is what a call needs that follows from its size: kept by the experts,
// as a model's next step often has the same.
type moePlan struct {
	moeLayout
	pairs                                          int
	base                                           driver.Ptr
	inputsMap, inputScalesMap                      driver.TensorMap
	innerMap, innerScalesMap                       driver.TensorMap
	route, permute, arrange, gated, plain, combine *driver.Function
	tileRows                                       int
}

func (p *moePlan) at(offset int64) driver.Ptr { return p.base + driver.Ptr(offset) }

// planFor returns the plan for a number of pairs, nil if there is no memory.
func (e *experts) planFor(pairs int) *moePlan {
	d := e.dev
	l := layoutMoE(e.form, pairs, e.count, e.hidden, e.inner)
	base := d.scratch("moe", l.bytes)
	if base == 0 {
		return nil
	}
	if p := e.plan; p != nil && p.pairs == pairs && p.base == base {
		return p
	}
	p := &moePlan{moeLayout: l, pairs: pairs, base: base, tileRows: groupedTokens, route: d.kernel("moe", "moe_route"),
		permute: d.kernel("moe", "moe_permute"), arrange: d.kernel("moe", "moe_arrange"), combine: d.kernel("moe", "moe_combine")}
	unit := "grouped_bf16"
	switch e.form {
	case expertGeneric:
		p.tileRows = genericTokens
		p.gated, p.plain = d.kernel("moe_generic", "generic_gated"), d.kernel("moe_generic", "generic_plain")
		e.plan = p
		return p
	case expertF8:
		unit = "grouped_f8"
		p.permute, p.arrange = d.kernel("moe", "moe_permute_f8"), d.kernel("moe", "moe_arrange_f8")
	}
	p.gated, p.plain = d.kernel(unit, "grouped_gated"), d.kernel(unit, "grouped_plain")
	for _, m := range []struct {
		rows, scales     *driver.TensorMap
		rowsAt, scalesAt int64
		cols             int
	}{
		{&p.inputsMap, &p.inputScalesMap, l.inputs, l.inputScales, e.hidden},
		{&p.innerMap, &p.innerScalesMap, l.inner, l.innerScales, e.inner},
	} {
		var err error
		if *m.rows, err = driver.EncodeTensorMap(d.cuda, driver.TensorMapSpec{
			Type: e.form.mapType(), Base: p.at(m.rowsAt),
			Dims: []uint64{uint64(m.cols), uint64(l.rows)}, Strides: []uint64{uint64(m.cols * e.form.weightBytes())},
			Box: []uint32{uint32(128 / e.form.weightBytes()), groupedBox}, Swizzle: 128,
		}); err != nil {
			d.fail(fmt.Errorf("cuda: MoE: %w", err))
			return nil
		}
		if e.form != expertF8 {
			continue
		}
		if *m.scales, err = driver.EncodeTensorMap(d.cuda, driver.TensorMapSpec{
			Type: driver.MapF32, Base: p.at(m.scalesAt),
			Dims: []uint64{uint64(l.rows), uint64(m.cols / 128)}, Strides: []uint64{4 * uint64(l.rows)},
			Box: []uint32{groupedTokens, 1},
		}); err != nil {
			d.fail(fmt.Errorf("cuda: MoE: %w", err))
			return nil
		}
	}
	e.plan = p
	return p
}

// MoE implements device.Device. An expert that does not exist stops the device:
// Sync reports it, and nothing runs afterwards.
func (d *Device) MoE(dst, src, ids, weights device.Tensor, ex device.Experts) {
	e, ok := ex.(*experts)
	if !ok {
		panic(fmt.Sprintf("cuda: MoE: experts are a %T", ex))
	}
	rows, choose := src.Rows, ids.Cols
	want("MoE", "src", src, device.BF16, rows, e.hidden)
	want("MoE", "dst", dst, device.BF16, rows, e.hidden)
	want("MoE", "ids", ids, device.I32, rows, choose)
	want("MoE", "weights", weights, device.F32, rows, choose)
	if rows*choose == 0 || d.err != nil {
		return
	}
	p := e.planFor(rows * choose)
	if p == nil {
		return
	}
	if p.pairs <= arrangePairs {
		e.moeArrange(p, ptr(ids), ptr(src), rows, choose)
	} else {
		e.moeRoute(p, ptr(ids))
		e.moePermute(p, ptr(src), rows, choose)
	}
	e.moeGated(p)
	for first := 0; first < e.hidden; first += p.columns {
		columns := min(p.columns, e.hidden-first)
		e.moePlain(p, first, columns)
		e.moeCombine(p, ptr(dst), ptr(weights), rows, choose, first, columns)
	}
}

// routeParams mirrors struct RouteParams of moe.cu.
type routeParams struct {
	IDs, Place, Tiles, Count             driver.Ptr
	Pairs, Experts, TileRows, GroupTiles int32
}

func (e *experts) routeParams(p *moePlan, ids driver.Ptr) routeParams {
	return routeParams{
		IDs: ids, Place: p.at(p.place), Tiles: p.at(p.tiles), Count: p.at(p.count),
		Pairs: int32(p.pairs), Experts: int32(e.count), TileRows: int32(p.tileRows), GroupTiles: groupTiles,
	}
}

// routeShared is the shared memory that route of moe.cu needs.
func (e *experts) routeShared() int { return 4 * routeWarps * e.count }

// moeRoute sorts the pairs by expert.
func (e *experts) moeRoute(p *moePlan, ids driver.Ptr) {
	params := e.routeParams(p, ids)
	launchWith(e.dev, &driver.Launch{Function: p.route, Grid: grid1(routeBlocks), Block: block1(32 * routeWarps),
		Shared: uint32(e.routeShared()), Cluster: [3]uint32{routeBlocks, 1, 1}}, &params)
}

// dependent launches a kernel that may begin before the one queued before it has
// ended: all of the following wait for that on the device.
func dependent[P any](d *Device, f *driver.Function, grid, block [3]uint32, shared int, p *P) {
	launchWith(d, &driver.Launch{Function: f, Grid: grid, Block: block, Shared: uint32(shared), Dependent: true}, p)
}

// permuteParams mirrors struct PermuteParams of moe.cu.
type permuteParams struct {
	Src, Place, Rows, Scales      driver.Ptr
	Choose, Cols, ScalePitch, Pad int32
}

func (e *experts) permuteParams(p *moePlan, src driver.Ptr, choose int) permuteParams {
	return permuteParams{
		Src: src, Place: p.at(p.place), Rows: p.at(p.inputs), Scales: p.at(p.inputScales),
		Choose: int32(choose), Cols: int32(e.hidden), ScalePitch: int32(p.rows),
	}
}

// moePermute writes the inputs of the first product.
func (e *experts) moePermute(p *moePlan, src driver.Ptr, rows, choose int) {
	threads := min(512, roundUp(divUp(e.hidden, 16), 32)) // of 16 columns each
	params := e.permuteParams(p, src, choose)
	dependent(e.dev, p.permute, grid1(rows), block1(threads), 0, &params)
}

// arrangePairs is up to how many pairs moeArrange takes the place of moeRoute and
// moePermute: one for each of a block's threads.
const arrangePairs = 32 * routeWarps

// arrangeParams mirrors struct ArrangeParams of moe.cu.
type arrangeParams struct {
	Route   routeParams
	Permute permuteParams
}

// moeArrange is moeRoute and moePermute in one kernel.
func (e *experts) moeArrange(p *moePlan, ids, src driver.Ptr, rows, choose int) {
	launch(e.dev, p.arrange, grid1(rows), block1(32*routeWarps), e.routeShared(), &arrangeParams{
		Route: e.routeParams(p, ids), Permute: e.permuteParams(p, src, choose),
	})
}

// groupedParams mirrors struct GroupedParams of grouped.cu.
type groupedParams struct {
	Weights, Tokens, Scales                  driver.TensorMap
	Tiles, Count, WeightScales               driver.Ptr
	Out, OutScales                           driver.Ptr
	KBlocks, Blocks, FirstBlock, ScaleBlocks int32
	Outputs, OutFirst, OutPitch, ScalePitch  int32
	_                                        [56]byte
}

// genericParams mirrors struct GenericParams of moe_generic.cu.
type genericParams struct {
	Weights, Tokens, Tiles, Count, Out driver.Ptr
	K, WeightRows, Outputs, Blocks     int32
}

// moeGrid is the number of blocks that share the tiles: one a multiprocessor, or
// fewer if there cannot be as many tiles.
func (e *experts) moeGrid(p *moePlan, blocks int) [3]uint32 {
	tiles := min(p.pairs, e.count) + p.pairs/p.tileRows
	return grid1(min(e.dev.info.Workers, tiles*blocks))
}

// moeGated computes silu(gate)·up of all pairs.
func (e *experts) moeGated(p *moePlan) {
	if e.form == expertGeneric {
		blocks := divUp(e.inner, genericOutputs/2)
		dependent(e.dev, p.gated, e.moeGrid(p, blocks), block1(256), 0, &genericParams{
			Weights: e.gateUp, Tokens: p.at(p.inputs), Tiles: p.at(p.tiles), Count: p.at(p.count), Out: p.at(p.inner),
			K: int32(e.hidden), WeightRows: int32(e.gateUpRows()), Outputs: int32(e.inner), Blocks: int32(blocks),
		})
		return
	}
	blocks := e.gateUpBlocks()
	dependent(e.dev, p.gated, e.moeGrid(p, blocks), block1(groupedThreads), groupedShared, &groupedParams{
		Weights: e.gateUpMap, Tokens: p.inputsMap, Scales: p.inputScalesMap,
		Tiles: p.at(p.tiles), Count: p.at(p.count), WeightScales: e.gateUpScales,
		Out: p.at(p.inner), OutScales: p.at(p.innerScales),
		KBlocks: e.form.kBlocks(e.hidden), Blocks: int32(blocks), ScaleBlocks: int32(blocks),
		Outputs: int32(e.inner), OutPitch: int32(e.inner), ScalePitch: int32(p.rows),
	})
}

// kBlocks is the number of steps of 128 bytes through k weights.
func (f expertForm) kBlocks(k int) int32 { return int32(divUp(k*f.weightBytes(), 128)) }

// moePlain computes columns [first, first+columns) of down of all pairs.
func (e *experts) moePlain(p *moePlan, first, columns int) {
	if e.form == expertGeneric {
		blocks := divUp(e.hidden, genericOutputs)
		dependent(e.dev, p.plain, e.moeGrid(p, blocks), block1(256), 0, &genericParams{
			Weights: e.down, Tokens: p.at(p.inner), Tiles: p.at(p.tiles), Count: p.at(p.count), Out: p.at(p.inputs),
			K: int32(e.inner), WeightRows: int32(e.hidden), Outputs: int32(e.hidden), Blocks: int32(blocks),
		})
		return
	}
	blocks := divUp(columns, groupedOutputs)
	dependent(e.dev, p.plain, e.moeGrid(p, blocks), block1(groupedThreads), groupedShared, &groupedParams{
		Weights: e.downMap, Tokens: p.innerMap, Scales: p.innerScalesMap,
		Tiles: p.at(p.tiles), Count: p.at(p.count), WeightScales: e.downScales, Out: p.at(p.inputs),
		KBlocks: e.form.kBlocks(e.inner), Blocks: int32(blocks), FirstBlock: int32(first / groupedOutputs), ScaleBlocks: int32(e.downBlocks()),
		Outputs: int32(columns), OutFirst: int32(first), OutPitch: int32(columns), ScalePitch: int32(p.rows),
	})
}

// combineParams mirrors struct CombineParams of moe.cu.
type combineParams struct {
	Dst, Y, Place, Weights       driver.Ptr
	Choose, DstCols, First, Cols int32
}

// moeCombine adds the weighted results in columns [first, first+columns) to dst.
func (e *experts) moeCombine(p *moePlan, dst, weights driver.Ptr, rows, choose, first, columns int) {
	const threads = 128 // of 8 columns each
	dependent(e.dev, p.combine, [3]uint32{uint32(rows), uint32(divUp(columns, 8*threads)), 1}, block1(threads), 0, &combineParams{
		Dst: dst, Y: p.at(p.inputs), Place: p.at(p.place), Weights: weights,
		Choose: int32(choose), DstCols: int32(e.hidden), First: int32(first), Cols: int32(columns),
	})
}
