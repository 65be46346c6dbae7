//go:build !unix

package serve

import "time"

// cpuTime is not known here: shares of the processor are reported as 0.
func cpuTime() time.Duration { return 0 }
