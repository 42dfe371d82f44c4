package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"

	"github.com/tachograph/tachograph/events"
)

// An Archive is a folder that an Export has written.
type Archive struct {
	Dir string
	Manifest
	sum string
}

// Open reads the manifest of an archive.
func Open(dir string) (*Archive, error) {
	m, text, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return &Archive{Dir: dir, Manifest: m, sum: hex.EncodeToString(sum[:8])}, nil
}

// Name tells an archive apart from others, whatever its folder is called.
func (a *Archive) Name() string { return a.sum }

// Verify reads every file and holds it against its checksum. tell, which may be
// nil, hears how many files are done.
func (a *Archive) Verify(ctx context.Context, tell func(done, total uint64)) error {
	for i, f := range a.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(a.Dir, f.Name)
		torn := func(why string) error {
			return fmt.Errorf("read archive: %s is damaged: %s (remedy: bring back that file from a copy, or export again)", path, why)
		}
		size, sum, err := sumOf(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return torn("it is not there")
		case err != nil:
			return fmt.Errorf("read archive: %w", err)
		case size != f.Bytes:
			return torn(fmt.Sprintf("it has %d bytes instead of %d", size, f.Bytes))
		case sum != f.SHA256:
			return torn("its checksum is another")
		}
		if tell != nil {
			tell(uint64(i+1), uint64(len(a.Files)))
		}
	}
	return nil
}

// Events yields a partition's events after a sequence, in the order of the log.
func (a *Archive) Events(ctx context.Context, epoch uint32, partition uint16, after uint64) iter.Seq2[events.Event, error] {
	return func(yield func(events.Event, error) bool) {
		for _, f := range a.Files {
			if f.Epoch != epoch || f.Partition != partition || f.Last <= after {
				continue
			}
			last := max(after, f.First-1)
			for e, err := range a.read(ctx, f) {
				if err == nil && e.Position.Seq <= after {
					continue
				}
				if err == nil && (e.Position.Epoch != epoch || e.Position.Partition != partition || e.Position.Seq <= last || e.Position.Seq > f.Last) {
					err = fmt.Errorf("an event at %s does not belong there", e.Position)
				}
				if err != nil {
					yield(events.Event{}, fmt.Errorf("read archive: %s: %w", filepath.Join(a.Dir, f.Name), err))
					return
				}
				last = e.Position.Seq
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}
