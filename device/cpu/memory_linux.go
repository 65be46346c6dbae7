package cpu

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a transparent huge page.
const hugePage = 2 << 20

// mapMemory maps bytes of zeroed anonymous memory, backed by huge pages where
// the system grants them.
func mapMemory(size int64) (data []byte, mapped bool, err error) {
	rounded := (size + hugePage - 1) &^ (hugePage - 1)
	data, err = unix.Mmap(-1, 0, int(rounded), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, false, err
	}
	// Only advice: without huge pages everything works, a little slower.
	_ = unix.Madvise(data, unix.MADV_HUGEPAGE)
	return data[:size], true, nil
}

// unmapMemory gives back what mapMemory returned.
func unmapMemory(data []byte) {
	if err := unix.Munmap(data[:cap(data)]); err != nil {
		panic("cpu: unmap: " + err.Error())
	}
}

// machine returns the processor's name and the bytes of memory: the machine's,
// or what the control group of the process may use if that is less.
func machine() (name string, memory int64) {
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range bytes.Lines(b) {
			if key, value, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(key)) == "model name" {
				name = string(bytes.TrimSpace(value))
				break
			}
		}
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = int64(uint64(info.Totalram) * uint64(info.Unit))
	}
	// In a container the root of the hierarchy is its own group. Version 2 has
	// "max" where there is no limit, version 1 a number beyond all memory.
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if limit, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64); err == nil && limit > 0 {
			memory = min(memory, limit)
		}
	}
	return name, memory
}
