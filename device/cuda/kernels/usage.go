package kernels

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Usage is what the compiler reports about one kernel.
type Usage struct {
	Kernel      string
	Registers   int // per thread
	Stack       int // bytes of local memory per thread
	SpillStores int // bytes
	SpillLoads  int // bytes
	Shared      int // bytes of static shared memory
}

// Spills reports whether registers went to memory.
func (u Usage) Spills() bool { return u.SpillStores > 0 || u.SpillLoads > 0 }

var (
	compiling  = regexp.MustCompile(`Compiling entry function '([^']+)'`)
	properties = regexp.MustCompile(`Function properties for (\S+)`)
	spills     = regexp.MustCompile(`(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads`)
	used       = regexp.MustCompile(`Used (\d+) registers`)
	shared     = regexp.MustCompile(`(\d+) bytes smem`)
	// Advice of the assembler that makes a matrix kernel slow: setmaxnreg
	// ignored, products serialised, waits or arrivals injected.
	slow = regexp.MustCompile(`C75(?:08|11|17|19)\b`)
)

// ParseUsage reads the kernels' resources from a compilation's log, and the
// lines that warn of slow matrix products.
func ParseUsage(log string) (kernels []Usage, warnings []string, err error) {
	entry := false
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if m := compiling.FindStringSubmatch(line); m != nil {
			kernels, entry = append(kernels, Usage{Kernel: m[1]}), true
			continue
		}
		if m := properties.FindStringSubmatch(line); m != nil {
			entry = len(kernels) > 0 && kernels[len(kernels)-1].Kernel == m[1]
		}
		if slow.MatchString(line) {
			warnings = append(warnings, line)
		}
		if !entry {
			continue
		}
		k := &kernels[len(kernels)-1]
		if m := spills.FindStringSubmatch(line); m != nil {
			k.Stack, k.SpillStores, k.SpillLoads = number(m[1]), number(m[2]), number(m[3])
		}
		if m := used.FindStringSubmatch(line); m != nil {
			k.Registers = number(m[1])
		}
		if m := shared.FindStringSubmatch(line); m != nil {
			k.Shared = number(m[1])
		}
	}
	for _, k := range kernels {
		if k.Registers == 0 {
			return nil, nil, fmt.Errorf("kernels: the compiler's log says nothing of the registers of %s", k.Kernel)
		}
	}
	return kernels, warnings, nil
}

func number(s string) int {
	n, _ := strconv.Atoi(s) // digits only, by the expression
	return n
}
