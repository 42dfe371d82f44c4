package jetlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func (c *Config) blockDir(stream string) string {
	return filepath.Join(c.StoreDir, "jetstream", c.Account, "streams", stream, "msgs")
}

func (l *Log) blockDir(partition uint16) string { return l.cfg.blockDir(streamName(partition)) }

// listBlocks returns the numbers of the block files in a directory, ascending.
func listBlocks(dir string) (blocks []uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".blk")
		if n, err := strconv.ParseUint(name, 10, 64); ok && err == nil {
			blocks = append(blocks, n)
		}
	}
	slices.Sort(blocks)
	return blocks, nil
}

// blockBefore returns the sequence at which the last block begins that begins
// at a sequence or before; 1 when there is none.
func blockBefore(dir string, seq uint64) (uint64, error) {
	blocks, err := listBlocks(dir)
	if err != nil {
		return 0, fmt.Errorf("list block files: %w", err)
	}
	for _, n := range slices.Backward(blocks) {
		first, ok, err := firstSequence(filepath.Join(dir, strconv.FormatUint(n, 10)+".blk"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
		if ok && first <= seq {
			return first, nil
		}
	}
	return 1, nil
}

// What the server sets in a record's length and sequence (nats-server,
// filestore.go): it has headers; it was erased, or is a gap; it says that
// another one was removed.
const (
	recordHeaders = 1 << 31
	recordErased  = 1 << 63
	recordRemoval = 1 << 62
)

// firstSequence reads the sequence of a block's first message. A record begins
// with its length in 4 bytes and its sequence in 8, little endian.
func firstSequence(path string) (seq uint64, ok bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	for at := int64(0); ; {
		var head [12]byte
		if _, err := f.ReadAt(head[:], at); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return 0, false, err
		}
		length := binary.LittleEndian.Uint32(head[:]) &^ recordHeaders
		if seq = binary.LittleEndian.Uint64(head[4:]); seq&(recordErased|recordRemoval) == 0 {
			return seq, true, nil
		}
		if length < uint32(len(head)) {
			return 0, false, nil // nothing that we know
		}
		at += int64(length)
	}
}
