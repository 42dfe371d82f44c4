package jetlog

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/minio/highwayhash"
)

// The server writes down that a message is removed before it overwrites it. One
// that is killed in between comes up without the message and with its bytes, and
// erases it no more, as it is not there. So Erase leaves a note beside the store
// while it is at work, and who starts a server on a store with such a note calls
// Scrub first.
const erasingPrefix = "erasing."

// erasing leaves the note; done takes it away.
func (l *Log) erasing(partition uint16) (done func() error, err error) {
	if l.cfg.StoreDir == "" {
		return func() error { return nil }, nil
	}
	note := filepath.Join(l.cfg.StoreDir, erasingPrefix+streamName(partition))
	if err := os.WriteFile(note, nil, 0o600); err != nil {
		return nil, err
	}
	return func() error { return os.Remove(note) }, syncPath(l.cfg.StoreDir)
}

// Scrub overwrites what a server that was killed while it erased has left in the
// block files of an account's streams. The server must not run.
func Scrub(storeDir, account string) error {
	notes, err := filepath.Glob(filepath.Join(storeDir, erasingPrefix+"*"))
	if err != nil {
		return fmt.Errorf("scrub %s: %w", storeDir, err)
	}
	for _, note := range notes {
		stream := strings.TrimPrefix(filepath.Base(note), erasingPrefix)
		c := Config{StoreDir: storeDir, Account: account}
		if err := scrubStream(c.blockDir(stream), stream); err != nil {
			return fmt.Errorf("scrub stream %s: %w", stream, err)
		}
		if err := os.Remove(note); err != nil {
			return fmt.Errorf("scrub stream %s: %w", stream, err)
		}
	}
	return nil
}

func scrubStream(dir, stream string) error {
	blocks, err := listBlocks(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	unfinished, err := filepath.Glob(filepath.Join(dir, "*.tmp")) // copies of blocks
	if err != nil {
		return err
	}
	for _, file := range unfinished {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	removed := map[uint64]bool{}
	for _, n := range blocks {
		b, err := os.ReadFile(blockPath(dir, n))
		if err != nil {
			return err
		}
		for r := range records(b) {
			if seq := binary.LittleEndian.Uint64(r[4:]); seq&recordRemoval != 0 {
				removed[seq&^recordRemoval] = true
			}
		}
	}
	for _, n := range blocks {
		if err := scrubBlock(dir, stream, n, removed); err != nil {
			return fmt.Errorf("block %d: %w", n, err)
		}
	}
	return nil
}

// records yields the records of a block, of which a crash may have cut the last.
func records(b []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) >= recordHead {
			length := binary.LittleEndian.Uint32(b) &^ recordHeaders
			if length < recordHead+recordHash || uint64(length) > uint64(len(b)) || !yield(b[:length]) {
				return
			}
			b = b[length:]
		}
	}
}

// A record is length, sequence, time and length of the subject; subject, headers
// and message; the hash of all but the two lengths (nats-server, filestore.go).
const (
	recordHead = 4 + 8 + 8 + 2
	recordHash = 8
)

// scrubBlock overwrites the records of a block that were removed, as the server
// does: the sequence says that it was erased, and the rest is random.
func scrubBlock(dir, stream string, n uint64, removed map[uint64]bool) error {
	path := blockPath(dir, n)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, n))
	hash, err := highwayhash.New64(key[:])
	if err != nil {
		return err
	}
	changed := false
	for r := range records(b) {
		seq := binary.LittleEndian.Uint64(r[4:])
		if seq&(recordErased|recordRemoval) != 0 || !removed[seq] {
			continue
		}
		changed = true
		clear(r[12:recordHead])
		binary.LittleEndian.PutUint32(r, uint32(len(r)))
		binary.LittleEndian.PutUint64(r[4:], seq|recordErased)
		body := r[recordHead : len(r)-recordHash]
		_, _ = rand.Read(body) // never fails, see crypto/rand
		hash.Reset()
		_, _ = hash.Write(r[4:20]) // nor does this
		_, _ = hash.Write(body)
		copy(r[len(r)-recordHash:], hash.Sum(nil))
	}
	if !changed {
		return nil
	}
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	if err := syncPath(path + ".tmp"); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	// The server's index tells of the file as it was; without it it reads the blocks.
	if err := os.Remove(filepath.Join(dir, "index.db")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncPath(dir)
}

func blockPath(dir string, n uint64) string {
	return filepath.Join(dir, strconv.FormatUint(n, 10)+".blk")
}
