package pathway

// RowChunk returns how many of rows rows fit into bound bytes at perRow bytes
// each: at least 1 and at most rows, if there are any. A single row that does
// not fit is still a chunk, so that work proceeds; give a bound that holds one.
func RowChunk(rows int, perRow, bound int64) int {
	if perRow > 0 && int64(rows) > bound/perRow {
		return min(rows, max(1, int(bound/perRow)))
	}
	return rows
}

// ScoreChunk returns how many of rows rows have their index scores, float32
// over context keys each, within bound bytes; as [RowChunk].
func ScoreChunk(rows, context int, bound int64) int {
	return RowChunk(rows, 4*int64(context), bound)
}
