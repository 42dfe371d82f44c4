package engine

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lock holds a file's lock until the function it returns is called.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != syscall.EWOULDBLOCK {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		wait(ctx, 200*time.Millisecond)
		if ctx.Err() != nil {
			f.Close()
			return nil, fmt.Errorf("wait for another process that fetches: %w", ctx.Err())
		}
	}
}
