package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tachograph/tachograph/services/api/problem"
)

// Exit codes, for scripts. They never change their meaning.
const (
	exitOK          = 0
	exitFailed      = 1 // what was asked for did not happen
	exitUsage       = 2 // the command line or configuration is wrong
	exitUnreachable = 3 // no node answers, or it is not ready
	exitNotFound    = 4 // no such device, schema, state
	exitDenied      = 5 // the token was refused
	exitConflict    = 6 // it exists already, or somebody else was first
	exitDiffers     = 7 // what was compared is not equal
	exitInterrupted = 130
)

// A fault is an error for people: what failed, and what to do about it.
type fault struct {
	err  error
	hint string
	exit int
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func failed(exit int, hint string, format string, args ...any) error {
	return &fault{err: fmt.Errorf(format, args...), hint: hint, exit: exit}
}

// refused makes a fault of a node's refusal.
func refused(p *problem.Problem) error {
	exit := exitFailed
	switch p.Code.Status() {
	case 400, 413, 415, 422:
		exit = exitFailed
	case 401, 403:
		exit = exitDenied
	case 404, 410:
		exit = exitNotFound
	case 409:
		exit = exitConflict
	case 503:
		exit = exitUnreachable
	}
	return &fault{err: p, hint: p.Hint, exit: exit}
}

// report writes an error to people and returns the exit code.
func report(w io.Writer, err error) int {
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(w, "tacho: interrupted")
		return exitInterrupted
	}
	message, hint, exit := err.Error(), "", exitFailed
	var f *fault
	if errors.As(err, &f) {
		hint, exit = f.hint, f.exit
	}
	lines := strings.Split(strings.TrimRight(message, "\n"), "\n")
	for _, line := range lines {
		fmt.Fprintln(w, "tacho: "+printable(line))
	}
	if hint != "" {
		fmt.Fprintln(w, "hint: "+printable(hint))
	}
	return exit
}
