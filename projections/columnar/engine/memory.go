package engine

import (
	"bytes"
	"os"
	"strconv"
)

// DefaultMemory is half of what this machine, or the control group that the
// process is in, has; 4 GiB at most.
func DefaultMemory() int64 {
	has := int64(8 << 30)
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		has = min(has, memTotal(info))
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(file); err == nil {
			if n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64); err == nil && n > 0 { // "max" is no limit
				has = min(has, n)
			}
		}
	}
	return has / 2
}

// memTotal reads the line "MemTotal: 24689764 kB".
func memTotal(info []byte) int64 {
	for line := range bytes.Lines(info) {
		if rest, ok := bytes.CutPrefix(line, []byte("MemTotal:")); ok {
			if kb, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64); err == nil {
				return kb << 10
			}
		}
	}
	return 8 << 30
}
