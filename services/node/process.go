package node

import (
	"errors"
	"fmt"
	"syscall"
)

// raiseFileLimit lets the process hold as many connections as the system
// allows, and returns how many files that is.
func raiseFileLimit() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	if l.Cur < l.Max {
		raised := l
		raised.Cur = l.Max
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
			l = raised
		}
	}
	return uint64(l.Cur)
}

func portTaken(flag string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("--%s: %w: stop what listens there, choose another port, or use --ports auto", flag, err)
	}
	return fmt.Errorf("--%s: %w", flag, err)
}
