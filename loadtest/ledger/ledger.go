// Package ledger is the judge: it holds what devices were acknowledged against
// what the log and ClickHouse have.
package ledger

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// An Entry is a message that was acknowledged to its device. The id is
// events.DeriveID of its bytes, so that an altered byte is another entry.
type Entry struct {
	Device, Type, ID string
}

// A File keeps entries on disk, one a line, as they come. What a killed
// process had written is there; a torn last line is ignored.
type File struct {
	mu   sync.Mutex
	f    *os.File
	seen map[Entry]bool
}

// Open opens or creates a file and reads what it holds.
func Open(path string) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	entries, whole, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	l := &File{f: f, seen: make(map[Entry]bool, len(entries))}
	for _, e := range entries {
		l.seen[e] = true
	}
	if err := f.Truncate(whole); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger: %w", err), f.Close())
	}
	if _, err := f.Seek(0, 2); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger: %w", err), f.Close())
	}
	return l, nil
}

// Read returns the entries of a file.
func Read(path string) ([]Entry, error) {
	entries, _, err := read(path)
	return entries, err
}

func read(path string) (entries []Entry, whole int64, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	in := bufio.NewScanner(strings.NewReader(string(b[:strings.LastIndexByte(string(b), '\n')+1])))
	for in.Scan() {
		fields := strings.Split(in.Text(), "\t")
		if len(fields) != 3 {
			return nil, 0, fmt.Errorf("line %d of %s has %d fields", len(entries)+1, path, len(fields))
		}
		entries = append(entries, Entry{fields[0], fields[1], fields[2]})
		whole += int64(len(in.Bytes())) + 1
	}
	return entries, whole, in.Err()
}

// Append adds entries to a file.
func Append(path string, entries []Entry) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("append to ledger: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("append to ledger: %w", err)
	}
	out := bufio.NewWriter(f)
	for _, e := range entries {
		_, err = out.WriteString(e.Device + "\t" + e.Type + "\t" + e.ID + "\n") // the writer keeps its error
	}
	if err = errors.Join(err, out.Flush(), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("append to ledger: %w", err)
	}
	return nil
}

// Add records an acknowledgement. It is with the operating system when Add
// returns, so the death of this process does not lose it.
func (l *File) Add(e Entry) error {
	if strings.ContainsAny(e.Device+e.Type+e.ID, "\t\n") {
		return fmt.Errorf("ledger: %q has a tab or a line break", e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[e] {
		return nil
	}
	l.seen[e] = true
	_, err := l.f.WriteString(e.Device + "\t" + e.Type + "\t" + e.ID + "\n")
	return err
}

// Has tells whether an entry is recorded.
func (l *File) Has(e Entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[e]
}

// Len is how many different entries there are.
func (l *File) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seen)
}

// Sync puts what was added on the disk.
func (l *File) Sync() error { return l.f.Sync() }

// Close syncs and closes the file.
func (l *File) Close() error {
	return errors.Join(l.f.Sync(), l.f.Close())
}
