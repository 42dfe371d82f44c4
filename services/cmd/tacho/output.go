package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// An output keeps apart what scripts read (standard output) from what only
// people need (standard error).
type output struct {
	w, notes io.Writer
}

func (o *output) line(s string) error {
	_, err := fmt.Fprintln(o.w, s)
	return err
}

// raw prints a document as it came, with one line feed at its end.
func (o *output) raw(document []byte) error {
	_, err := o.w.Write(append(bytes.TrimRight(document, "\n"), '\n'))
	return err
}

func (o *output) note(format string, args ...any) {
	fmt.Fprintf(o.notes, format+"\n", args...)
}

// terminal tells whether standard output is one.
func (o *output) terminal() bool {
	f, ok := o.w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
