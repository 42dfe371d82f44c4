package enginetest

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// FillDisk makes a file as large as its disk lets it be.
func FillDisk(f *os.File) error {
	for _, step := range []int64{16 << 20, 1 << 20, 4096} {
		for {
			info, err := f.Stat()
			if err == nil {
				err = syscall.Fallocate(int(f.Fd()), 0, info.Size(), step)
			}
			if errors.Is(err, syscall.ENOSPC) {
				break
			}
			if err != nil {
				return fmt.Errorf("fill the disk of %s: %w", f.Name(), err)
			}
		}
	}
	return nil
}
