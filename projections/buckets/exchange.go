package buckets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections"
)

// documents calls f with the present documents of a bucket.
func documents(ctx context.Context, kv jetstream.KeyValue, f func(key string, text []byte)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("read bucket %s: %w", kv.Bucket(), err)
	}
	defer func() { _ = w.Stop() }() // it is over, whatever the server says
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("read bucket %s: %w", kv.Bucket(), ctx.Err())
		case e, open := <-w.Updates():
			switch {
			case !open:
				return fmt.Errorf("read bucket %s: the connection was closed", kv.Bucket())
			case e == nil:
				return nil
			case !strings.HasPrefix(e.Key(), "="): // a position, a phase
				f(e.Key(), e.Value())
			}
		}
	}
}

const examples = 10

// A comparison is of what serves and what was built, up to the same positions.
type comparison struct {
	*Replay
	built jetstream.KeyValue
	upTo  map[uint16]events.Position

	report    projections.TableReport
	differing map[string]bool
	ahead     map[string]bool // what serves may be further along the log
}

// run finds the documents that differ. It keeps 32 bytes and the key of each that
// was built.
func (c *comparison) run(ctx context.Context) (projections.TableReport, error) {
	c.report, c.differing, c.ahead = projections.TableReport{Table: c.Serving.Bucket()}, map[string]bool{}, map[string]bool{}
	sums := map[string][sha256.Size]byte{}
	err := documents(ctx, c.built, func(key string, text []byte) { sums[key] = sha256.Sum256(text) })
	if err != nil {
		return c.report, err
	}
	c.report.New = uint64(len(sums))
	var foreign error
	err = documents(ctx, c.Serving, func(key string, text []byte) {
		c.report.Old++
		anew, ok := sums[key]
		delete(sums, key)
		switch {
		case !ok:
			c.report.OnlyOld++
		case anew != sha256.Sum256(text):
			c.report.Changed++
		default:
			return
		}
		c.differing[key] = true
		if at := PositionOf(text); before(c.upTo[at.Partition], at) {
			c.ahead[key] = true
			foreign = c.foreign(key, at)
		}
	})
	if err != nil {
		return c.report, err
	}
	for key := range sums {
		c.report.OnlyNew++
		c.differing[key] = true
	}
	if c.Truth != nil {
		foreign, err = nil, c.judge(ctx, sums)
	}
	keys := sorted(c.differing)
	c.report.Examples = keys[:min(examples, len(keys))]
	return c.report, errors.Join(err, foreign)
}

func (c *comparison) foreign(key string, at events.Position) error {
	return fmt.Errorf("compare: document %s is at %s, and the projections that were stopped stand at %s: another process folds the view too (remedy: stop it, or take the role project from it, for as long as the replay takes)",
		key, at, c.upTo[at.Partition])
}

// PositionOf is the position in a document; the zero position where a text is no document: it is not ahead of
// anything then.
func PositionOf(text []byte) events.Position {
	var d struct{ Position events.Position }
	if json.Unmarshal(text, &d) != nil {
		return events.Position{}
	}
	return d.Position
}

// judge takes those from what differs that are right, but further along the log than
// what was built.
func (c *comparison) judge(ctx context.Context, missing map[string][sha256.Size]byte) error {
	more := false // may have been written that was not built
	for p, at := range c.upTo {
		newest, err := events.Newest(ctx, c.Log, p)
		if err != nil {
			return fmt.Errorf("look whether documents are ahead: %w", err)
		}
		more = more || newest.Seq > at.Seq
	}
	if more { // one that is not there may have been deleted since
		for key := range missing {
			c.ahead[key] = true
		}
	}
	for key := range c.ahead {
		there, _, err := entryOf(ctx, c.Serving, key)
		if err != nil {
			return err
		}
		anew, err := c.truth(ctx, key, there)
		if err != nil {
			return err
		}
		if !bytes.Equal(there, anew) {
			continue
		}
		delete(c.differing, key)
		_, onlyNew := missing[key]
		built, _, err := entryOf(ctx, c.built, key)
		switch {
		case err != nil:
			return err
		case onlyNew:
			c.report.OnlyNew--
			c.report.New--
		case len(built) == 0:
			c.report.OnlyOld--
			c.report.Old--
		default:
			c.report.Changed--
		}
	}
	return nil
}

// truth is what a key must have, where it has something.
func (c *comparison) truth(ctx context.Context, key string, there []byte) ([]byte, error) {
	built, _, err := entryOf(ctx, c.built, key)
	if err != nil {
		return nil, err
	}
	at := PositionOf(there)
	switch ahead := before(c.upTo[at.Partition], at); {
	case !ahead && !c.ahead[key]:
		return built, nil
	case c.Truth == nil:
		return nil, c.foreign(key, at)
	}
	partition := at.Partition
	if len(there) == 0 {
		partition = PositionOf(built).Partition
	}
	anew, err := c.Truth(ctx, key, there, built, c.upTo[partition])
	if err != nil {
		return nil, fmt.Errorf("fold document %s: %w", key, err)
	}
	return anew, nil
}

// take replaces the documents that differ by what they must be. What they were is
// kept first, with where the serving projections stood.
func (c *comparison) take(ctx context.Context, stood map[uint16]standing) error {
	earlier, err := c.beginTaking(ctx, stood)
	if err != nil {
		return err
	}
	for _, key := range sorted(c.differing) {
		if c.Fault != nil {
			if err := c.Fault(key); err != nil {
				return err
			}
		}
		for {
			old, revision, err := entryOf(ctx, c.Serving, key)
			if err != nil {
				return err
			}
			anew, err := c.truth(ctx, key, old)
			if err != nil {
				return err
			}
			if bytes.Equal(old, anew) { // another process was there
				break
			}
			// One that is there was kept before a crash: what serves may be the new one.
			if _, err := earlier.Create(ctx, key, old); err != nil && !conflicts(err) {
				return fmt.Errorf("keep document %s: %w", key, err)
			}
			if err = replace(ctx, c.Serving, key, anew, revision); err == nil {
				break
			}
			if !conflicts(err) {
				return fmt.Errorf("replace document %s: %w", key, err)
			}
		}
	}
	if _, err := earlier.Put(ctx, phaseKey, []byte(phaseBefore)); err != nil {
		return fmt.Errorf("end replacing documents: %w", err)
	}
	return nil
}

func sorted(keys map[string]bool) []string {
	all := make([]string, 0, len(keys))
	for key := range keys {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

// replace writes a document in place of the one of a revision; 0 is none.
func replace(ctx context.Context, kv jetstream.KeyValue, key string, text []byte, revision uint64) (err error) {
	switch {
	case len(text) == 0 && revision == 0:
	case len(text) == 0:
		err = kv.Purge(ctx, key, jetstream.LastRevision(revision))
	case revision == 0:
		_, err = kv.Create(ctx, key, text)
	default:
		_, err = kv.Update(ctx, key, text, revision)
	}
	return err
}

// conflicts tells that another writer was first.
func conflicts(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// beginTaking makes the bucket of what was before, or finds the one of a replay
// that was interrupted while it replaced documents.
func (r *Replay) beginTaking(ctx context.Context, stood map[uint16]standing) (jetstream.KeyValue, error) {
	kv, err := r.bucket(ctx, r.beforeBucket())
	if err != nil {
		return nil, err
	}
	phase, _, err := entryOf(ctx, kv, phaseKey)
	if err != nil || string(phase) == phaseTaking {
		return kv, err
	}
	if err := r.drop(ctx, r.beforeBucket()); err != nil {
		return nil, err
	}
	if kv, err = r.bucket(ctx, r.beforeBucket()); err != nil {
		return nil, err
	}
	if err := r.putStood(ctx, kv, stood); err != nil {
		return nil, err
	}
	if _, err := kv.Put(ctx, phaseKey, []byte(phaseTaking)); err != nil {
		return nil, fmt.Errorf("begin replacing documents: %w", err)
	}
	return kv, nil
}

// Undo puts the documents back that the last replay has replaced. The serving
// projections go on where they stood then; documents that are further along the
// log pass over what they have.
//
// Errors: projections.ErrNothingToUndo, *events.TruncatedError when what came
// since has been purged from the log.
func (r *Replay) Undo(ctx context.Context) error {
	phase, err := r.phase(ctx, r.beforeBucket())
	if err != nil {
		return err
	}
	if phase == "" {
		return projections.ErrNothingToUndo
	}
	earlier, err := r.JS.KeyValue(ctx, r.beforeBucket())
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", r.beforeBucket(), err)
	}
	stood, err := r.stood(ctx, earlier)
	if err != nil {
		return err
	}
	for p, at := range stood {
		if _, err := r.Log.Locate(ctx, p, events.After(at.Cursor)); err != nil {
			return fmt.Errorf("the documents of before cannot be brought up to date: %w", err)
		}
	}
	resume, err := r.Pause(ctx)
	if err != nil {
		return err
	}
	defer resume()
	// The positions first: a document that is put back lacks what came since.
	if err := r.putStood(ctx, r.Serving, stood); err != nil {
		return err
	}
	for _, p := range r.Partitions {
		if _, ok := stood[p]; ok {
			continue
		}
		// Nothing of it was folded then: the log was split since.
		if err := r.Serving.Purge(ctx, r.PositionKey(p)); err != nil {
			return fmt.Errorf("remove position of partition %d: %w", p, err)
		}
	}
	var put error
	err = documents(ctx, earlier, func(key string, text []byte) {
		if put == nil {
			put = restore(ctx, r.Serving, key, text)
		}
	})
	if err := errors.Join(err, put); err != nil {
		return err
	}
	return r.drop(ctx, r.beforeBucket())
}

func restore(ctx context.Context, kv jetstream.KeyValue, key string, text []byte) (err error) {
	if len(text) == 0 {
		err = kv.Purge(ctx, key)
	} else {
		_, err = kv.Put(ctx, key, text)
	}
	if err != nil {
		return fmt.Errorf("put document %s back: %w", key, err)
	}
	return nil
}
