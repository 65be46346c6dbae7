package pathway

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestRowChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.IntRange(0, 1<<20).Draw(t, "rows")
		context := rapid.IntRange(0, 1<<20).Draw(t, "context")
		bound := rapid.Int64Range(0, math.MaxInt64).Draw(t, "bound")
		n := ScoreChunk(rows, context, bound)
		per := 4 * int64(context)
		switch {
		case n > rows || rows > 0 && n < 1:
			t.Fatalf("%d of %d rows", n, rows)
		case n > 1 && int64(n)*per > bound:
			t.Fatalf("%d rows of %d bytes in %d", n, per, bound)
		case n < rows && int64(n+1)*per <= bound:
			t.Fatalf("%d rows of %d bytes in %d: one more would fit", n, per, bound)
		}
	})
	if n := RowChunk(1000, 100, 12345); n != 123 {
		t.Errorf("123 rows of 100 bytes fit into 12345, got %d", n)
	}
}
