package pathway

import (
	"fmt"
	"math"
)

// Operation is a device operation that a calibration times.
type Operation uint8

// The operations, by what is timed.
const (
	OpExpand        Operation = iota // expansion of Keys cached records
	OpMHA                            // dense MHA of Pairs pairs over Keys expanded keys
	OpMHAMasked                      // masked MHA, the same sizes; Pairs counts visible keys
	OpMLA                            // dense MLA of Pairs pairs over Keys cached records
	OpMLASparse                      // sparse MLA of Pairs selected pairs
	OpAbsorb                         // absorption of Rows rows and the way back, together
	OpScore                          // index queries of Rows rows and their scores for Pairs visible keys
	OpSelectIndices                  // selection for Rows rows among Pairs candidates in all, as index lists
	OpSelectMask                     // the same as bit masks
	OpMerge                          // merging of partial results of Rows rows
	numOperations
)

// OperationCount is the number of operations.
const OperationCount = int(numOperations)

func (o Operation) String() string {
	if o >= numOperations {
		return fmt.Sprintf("Operation(%d)", uint8(o))
	}
	return [...]string{"expand", "mha", "mha-masked", "mla", "mla-sparse", "absorb", "score",
		"select-indices", "select-mask", "merge"}[o]
}

// Sample is one timing: an operation over given sizes, of one layer.
type Sample struct {
	Operation    Operation
	Rows         float64 // query rows
	Keys         float64 // positions expanded or read, summed over sequences
	Pairs        float64 // query-key pairs
	Microseconds float64 // above 0
}

// Residual tells how well a fit explains the samples of one operation: relative
// errors of prediction, root mean square and largest.
type Residual struct {
	Operation string  `json:"operation"`
	Samples   int     `json:"samples"`
	RMS       float64 `json:"rms_relative"`
	Worst     float64 `json:"worst_relative"`
}

// size names a field of Sample.
type size uint8

const (
	rowsSize size = iota
	keysSize
	pairsSize
)

func (s *Sample) size(z size) float64 { return [...]float64{s.Rows, s.Keys, s.Pairs}[z] }

// term says that an operation's time has a part, in proportion to a size.
type term struct {
	operation Operation
	part      Part
	size      size
}

// fitBlocks groups operations that share parts: each group is fitted at once.
// Every operation also has a constant of its own.
func fitBlocks(indexer bool) [][]term {
	dense := []term{
		{OpMHA, PairMHA, pairsSize}, {OpMHA, RowMHA, rowsSize}, {OpMHA, ReadKV, keysSize},
	}
	blocks := [][]term{
		{{OpExpand, ExpandKey, keysSize}},
		{{OpMLA, PairMLA, pairsSize}, {OpMLA, RowMLA, rowsSize}, {OpMLA, ReadRecord, keysSize}},
		{{OpAbsorb, AbsorbRow, rowsSize}},
		{{OpMerge, MergeRow, rowsSize}},
	}
	if !indexer {
		return append(blocks, dense)
	}
	return append(blocks,
		append(dense, term{OpMHAMasked, PairMHAMasked, pairsSize}, term{OpMHAMasked, RowMHA, rowsSize}, term{OpMHAMasked, ReadKV, keysSize}),
		[]term{{OpMLASparse, PairMLASparse, pairsSize}, {OpMLASparse, RowMLASparse, rowsSize}},
		[]term{{OpScore, ScoreRow, rowsSize}, {OpScore, ScorePair, pairsSize}},
		[]term{
			{OpSelectMask, TopKRow, rowsSize}, {OpSelectMask, TopKKey, pairsSize}, {OpSelectMask, MaskKey, pairsSize},
			{OpSelectIndices, TopKRow, rowsSize}, {OpSelectIndices, TopKKey, pairsSize}, {OpSelectIndices, IndexRow, rowsSize},
		},
	)
}

// Fit finds the unit costs that explain the samples best: non-negative least
// squares of relative errors, so that a microsecond counts as much in a short
// operation as it should. A pathway's overhead is the sum of the constants of
// its operations; of merging the constant is dropped, being paid only where a
// workspace is too small. Every operation that the geometry uses needs samples
// of at least two sizes, more than it has terms.
func Fit(key Key, samples []Sample) (Calibration, error) {
	c := Calibration{Version: calibrationVersion, Source: SourceMeasured, Key: key}
	if err := key.Geometry.Validate(); err != nil {
		return c, err
	}
	var byOperation [OperationCount][]Sample
	for i, s := range samples {
		for _, v := range []float64{s.Rows, s.Keys, s.Pairs} {
			if !(v >= 0) || math.IsInf(v, 0) {
				return c, fmt.Errorf("fit calibration: sample %d has size %v, want a finite count", i, v)
			}
		}
		if s.Operation >= numOperations || !(s.Microseconds > 0) || math.IsInf(s.Microseconds, 0) {
			return c, fmt.Errorf("fit calibration: sample %d: %v took %v microseconds, want a known operation and a time above 0",
				i, s.Operation, s.Microseconds)
		}
		byOperation[s.Operation] = append(byOperation[s.Operation], s)
	}
	var constants [OperationCount]float64
	for _, block := range fitBlocks(key.Geometry.Indexer()) {
		if err := fitBlock(block, &byOperation, &c.Units, &constants); err != nil {
			return c, fmt.Errorf("fit calibration: %w", err)
		}
		c.Residuals = append(c.Residuals, residuals(block, &byOperation, &c.Units, &constants)...)
	}
	u := &c.Units
	u[OverheadMHA] = constants[OpExpand] + constants[OpMHA]
	u[OverheadMLA] = constants[OpAbsorb] + constants[OpMLA]
	if key.Geometry.Indexer() {
		u[OverheadMHAMasked] = constants[OpExpand] + constants[OpMHAMasked] + constants[OpScore] + constants[OpSelectMask]
		u[OverheadMLASparse] = constants[OpAbsorb] + constants[OpMLASparse] + constants[OpScore] + constants[OpSelectIndices]
	}
	return c, c.Validate()
}

// fitBlock fits the parts and constants of one block.
func fitBlock(block []term, samples *[OperationCount][]Sample, units *Units, constants *[OperationCount]float64) error {
	// Unknowns: the block's operations' constants, then its parts.
	var operations []Operation
	var parts []Part
	column := make(map[Part]int)
	for _, t := range block {
		if len(operations) == 0 || operations[len(operations)-1] != t.operation {
			operations = append(operations, t.operation)
		}
	}
	for _, t := range block {
		if _, ok := column[t.part]; !ok {
			column[t.part] = len(operations) + len(parts)
			parts = append(parts, t.part)
		}
	}
	var rows [][]float64 // each divided by its time: the right-hand side is all ones
	for k, op := range operations {
		terms := 0
		for _, t := range block {
			if t.operation == op {
				terms++
			}
		}
		if n := len(samples[op]); n <= terms {
			return fmt.Errorf("operation %v has %d samples, want more than %d", op, n, terms)
		}
		varied := false
		for i := range samples[op] {
			s := &samples[op][i]
			row := make([]float64, len(operations)+len(parts))
			row[k] = 1 / s.Microseconds
			for _, t := range block {
				if t.operation == op {
					row[column[t.part]] += s.size(t.size) / s.Microseconds
					varied = varied || s.size(t.size) != samples[op][0].size(t.size)
				}
			}
			rows = append(rows, row)
		}
		if !varied {
			return fmt.Errorf("operation %v was timed at one size only", op)
		}
	}
	x := nonNegative(rows)
	for k, op := range operations {
		constants[op] = x[k]
	}
	for k, part := range parts {
		units[part] = x[len(operations)+k]
	}
	return nil
}

// residuals compares predictions with the samples of a block's operations.
func residuals(block []term, samples *[OperationCount][]Sample, units *Units, constants *[OperationCount]float64) []Residual {
	var out []Residual
	for i, t := range block {
		if i > 0 && block[i-1].operation == t.operation {
			continue
		}
		r := Residual{Operation: t.operation.String(), Samples: len(samples[t.operation])}
		for k := range samples[t.operation] {
			s := &samples[t.operation][k]
			predicted := constants[t.operation]
			for _, u := range block {
				if u.operation == t.operation {
					predicted += units[u.part] * s.size(u.size)
				}
			}
			relative := math.Abs(predicted/s.Microseconds - 1)
			r.RMS += relative * relative
			r.Worst = max(r.Worst, relative)
		}
		r.RMS = math.Sqrt(r.RMS / float64(r.Samples))
		out = append(out, r)
	}
	return out
}

// nonNegative returns the x ≥ 0 that minimises |rows·x − 1|². There are at most
// six unknowns, so that every choice of those that are not zero is tried: the
// optimum is the least-squares solution of one of them.
func nonNegative(rows [][]float64) []float64 {
	n := len(rows[0])
	scale := make([]float64, n) // columns are brought to unit length
	for j := range scale {
		for _, row := range rows {
			scale[j] += row[j] * row[j]
		}
		scale[j] = math.Sqrt(scale[j])
	}
	best, found := make([]float64, n), math.Inf(1)
	for support := range 1 << n {
		var columns []int
		for j := range n {
			if support>>j&1 == 1 && scale[j] > 0 {
				columns = append(columns, j)
			}
		}
		x, ok := leastSquares(rows, columns, scale)
		if !ok {
			continue
		}
		var sum float64
		for _, row := range rows {
			d := -1.0
			for k, j := range columns {
				d += row[j] * x[k]
			}
			sum += d * d
		}
		// A larger support must pay: noise in the last digits does not.
		if sum < found*(1-1e-12) {
			found = sum
			clear(best)
			for k, j := range columns {
				best[j] = x[k]
			}
		}
	}
	return best
}

// leastSquares solves the normal equations over some columns, scaled by scale;
// not ok if they are dependent or the solution has a negative entry.
func leastSquares(rows [][]float64, columns []int, scale []float64) ([]float64, bool) {
	n := len(columns)
	a := make([][]float64, n) // [n, n+1], the right-hand side last
	for i, ci := range columns {
		a[i] = make([]float64, n+1)
		for _, row := range rows {
			for j, cj := range columns {
				a[i][j] += row[ci] / scale[ci] * row[cj] / scale[cj]
			}
			a[i][n] += row[ci] / scale[ci]
		}
	}
	for i := range n { // Gauss-Jordan; positive definite, so no pivoting
		if a[i][i] < 1e-10 {
			return nil, false
		}
		for k := range n {
			if k == i {
				continue
			}
			f := a[k][i] / a[i][i]
			for j := i; j <= n; j++ {
				a[k][j] -= f * a[i][j]
			}
		}
	}
	x := make([]float64, n)
	for i, c := range columns {
		x[i] = a[i][n] / a[i][i] / scale[c]
		if x[i] < 0 {
			return nil, false
		}
	}
	return x, true
}
