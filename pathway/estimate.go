package pathway

// opOverhead is the assumed fixed cost of one device operation in microseconds:
// the order of a kernel launch, and of waking a team of threads.
const opOverhead = 2.0

// Estimate returns a calibration from counted work alone, for a device that
// computes flops floating-point operations and moves bandwidth bytes a second.
// Each unit costs the longer of its arithmetic and its compulsory memory
// traffic, as if every kernel ran at the device's peak. Nothing is exact about
// it but the proportions, which are those of the algorithm.
//
// Per head and pair MHA takes 2·(dn+dr+dv) operations and absorbed attention
// 2·(2·R+dr); expanding a key and absorbing a row both take 2·R·(dn+dv).
func Estimate(g Geometry, flops, bandwidth float64) Calibration {
	const micro = 1e6
	compute := func(ops int) float64 { return float64(ops) / flops * micro }
	traffic := func(bytes float64) float64 { return bytes / bandwidth * micro }

	mha := compute(g.Heads * 2 * (g.Nope + g.Rope + g.Value))
	mla := compute(g.Heads * 2 * (2*g.Latent + g.Rope))
	project := compute(g.Heads * 2 * g.Latent * (g.Nope + g.Value))
	record := traffic(float64(g.RecordSize))

	c := Calibration{Version: calibrationVersion, Source: SourceEstimate, Key: Key{Geometry: g}}
	u := &c.Units
	u[OverheadMHA] = 2 * opOverhead // expand, attend
	u[OverheadMLA] = 3 * opOverhead // absorb, attend, back
	u[ExpandKey] = max(project, record)
	// The MHA core's reading of K/V hides behind its arithmetic wherever MHA
	// has a chance, so ReadKV stays 0.
	u[PairMHA] = mha
	u[PairMLA] = mla
	u[ReadRecord] = record
	u[AbsorbRow] = project
	u[MergeRow] = traffic(float64(g.Heads * 3 * 4 * g.Value)) // two float32 rows in, one out
	if g.Indexer() {
		u[OverheadMHAMasked] = u[OverheadMHA] + 3*opOverhead // index queries, scores, selection
		u[OverheadMLASparse] = u[OverheadMLA] + 3*opOverhead
		u[PairMHAMasked] = mha
		u[PairMLASparse] = max(mla, record)
		u[ScoreRow] = compute(2 * g.QueryRank * g.IndexHeads * g.IndexDim)
		u[ScorePair] = max(compute(2*g.IndexHeads*g.IndexDim), traffic(4)) // a float32 score out
		u[TopKKey] = traffic(4)
		u[MaskKey] = traffic(1. / 8)
		u[IndexRow] = traffic(float64(4 * g.TopK))
	}
	return c
}
