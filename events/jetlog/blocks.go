package jetlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
)

// blockFiles syncs the message blocks of one stream of a server on this host.
//
// In its default persist mode the server has written a message to its block
// file before it acknowledges it, and an fsync through any descriptor covers
// what was written through another. So after an acknowledgement it is enough
// to sync the blocks that can have been written since the last sync: the
// newest one known, and those that came after it. The layout leaned on is
// <store>/jetstream/<account>/streams/<stream>/msgs/<n>.blk, n counting up.
type blockFiles struct {
	dir           string
	stream        string
	before, after func(stream string, files []string)
	count         atomic.Uint64
	changing      atomic.Int32 // purges and erasures under way: files are replaced and removed

	mu     sync.Mutex
	newest uint64
	file   *os.File
}

func openBlockFiles(cfg Config, stream string) (*blockFiles, error) {
	dir := cfg.blockDir(stream)
	blocks, err := listBlocks(dir)
	if err != nil {
		return nil, fmt.Errorf("find the block files of %s (is the server on this host, with this store directory and account?): %w", stream, err)
	}
	b := &blockFiles{dir: dir, stream: stream, before: cfg.BeforeSync, after: cfg.AfterSync}
	if len(blocks) > 0 {
		b.newest = blocks[len(blocks)-1]
	}
	// The way to the blocks must survive as well: the stream's own files and
	// every directory up to the one that holds the store's name, once.
	for _, path := range []string{
		"../meta.inf", "../meta.sum", ".", "..", "../..", "../../..", "../../../..", "../../../../..", "../../../../../..",
	} {
		if err := syncPath(filepath.Join(dir, path)); err != nil {
			return nil, fmt.Errorf("sync %s: %w", stream, err)
		}
	}
	return b, nil
}

// sync returns once everything that the server has written to the stream
// before the call is on disk.
func (b *blockFiles) sync() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changing.Load() > 0 || b.replaced() {
		return b.syncChanged()
	}
	if b.file == nil {
		if err := b.open(max(b.newest, 1)); err != nil {
			return err
		}
	}
	var files []string
	for grown := false; ; grown = true {
		_, err := os.Stat(b.path(b.newest + 1))
		last := os.IsNotExist(err)
		if err != nil && !last {
			return fmt.Errorf("sync %s: %w", b.stream, err)
		}
		if files = append(files, b.file.Name()); b.before != nil {
			b.before(b.stream, files[len(files)-1:])
		}
		if err := b.file.Sync(); err != nil {
			// After a failed fsync nobody knows what is on disk, and a repeat may
			// report success for pages that were dropped: the log can't go on.
			return fmt.Errorf("sync %s: %w", b.file.Name(), err)
		}
		b.count.Add(1)
		if last {
			if grown {
				if err := syncPath(b.dir); err != nil {
					return fmt.Errorf("sync %s: %w", b.stream, err)
				}
			}
			break
		}
		if err := b.open(b.newest + 1); err != nil {
			return err
		}
	}
	if b.after != nil {
		b.after(b.stream, files)
	}
	return nil
}

// replaced tells whether the newest block known is another file now, or gone:
// the server rewrites a block to erase a message of it, and removes it when it is
// empty. What is written from then on is in the new file.
func (b *blockFiles) replaced() bool {
	if b.file == nil {
		return false
	}
	now, err := os.Stat(b.path(b.newest))
	if err != nil {
		return true
	}
	ours, err := b.file.Stat()
	return err != nil || !os.SameFile(now, ours)
}

// syncChanged syncs every block from the newest known on, and their directory,
// in which some may have new names.
func (b *blockFiles) syncChanged() error {
	blocks, err := listBlocks(b.dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", b.stream, err)
	}
	var files []string
	for _, n := range blocks {
		if n < b.newest {
			continue
		}
		switch err := b.open(n); {
		case errors.Is(err, os.ErrNotExist):
			continue // emptied since
		case err != nil:
			return err
		}
		if files = append(files, b.file.Name()); b.before != nil {
			b.before(b.stream, files[len(files)-1:])
		}
		if err := b.file.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", b.file.Name(), err)
		}
		b.count.Add(1)
	}
	if err := syncPath(b.dir); err != nil {
		return fmt.Errorf("sync %s: %w", b.stream, err)
	}
	if b.after != nil {
		b.after(b.stream, files)
	}
	return nil
}

func (b *blockFiles) path(n uint64) string {
	return filepath.Join(b.dir, strconv.FormatUint(n, 10)+".blk")
}

func (b *blockFiles) open(n uint64) error {
	f, err := os.Open(b.path(n))
	if err != nil {
		return fmt.Errorf("sync %s: %w", b.stream, err)
	}
	if b.file != nil {
		_ = b.file.Close() // opened for reading; nothing can be lost
	}
	b.file, b.newest = f, n
	return nil
}

func (b *blockFiles) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	b.file = nil
	return err
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
