package latest

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// Bucket is the name of the KV bucket.
const Bucket = "latest"

// BucketConfig is how the bucket is made: on files, one value a key. It can be
// thrown away and folded again, so its owner may choose any durability.
func BucketConfig(replicas int) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: Bucket, Description: "newest value of each signal of each device; a fold of the log",
		History: 1, Storage: jetstream.FileStorage, Replicas: max(1, replicas),
	}
}

// positionKey is where a partition's cursor stands. No device has it: a
// device's key is one token, and Escape makes no "=p".
func positionKey(partition uint16) string {
	return "=position." + strconv.Itoa(int(partition))
}

// parallel is how many requests to the bucket are under way at once.
const parallel = 64

// An entry is a device's state in memory.
type entry struct {
	state    *State
	revision uint64 // of its document; 0 when there is none
	dirty    bool
	used     *list.Element
}

// A store is the bucket with the devices that were used last in memory.
type store struct {
	kv      jetstream.KeyValue
	size    int                // devices to keep
	fault   func(string) error // see Config
	entries map[string]*entry
	used    *list.List // of *entry, the last used in front
	dirty   []*entry
}

func newStore(kv jetstream.KeyValue, size int, fault func(string) error) *store {
	return &store{kv: kv, size: size, fault: fault, entries: map[string]*entry{}, used: list.New()}
}

// load brings the states of devices into memory. After an error some may be.
func (s *store) load(ctx context.Context, devices []string) error {
	loaded := make([]*entry, len(devices))
	err := each(len(devices), func(i int) error {
		state := &State{Device: devices[i]}
		revision, err := s.get(ctx, state)
		if err != nil {
			return err
		}
		loaded[i] = &entry{state: state, revision: revision}
		return nil
	})
	for i, e := range loaded {
		if e != nil && s.entries[devices[i]] == nil {
			e.used = s.used.PushFront(e)
			s.entries[devices[i]] = e
		}
	}
	return err
}

// get reads a device's document into state; revision 0 means there is none.
func (s *store) get(ctx context.Context, state *State) (revision uint64, err error) {
	device := state.Device
	kve, err := s.kv.Get(ctx, events.Escape(device))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("load state of %s: %w", device, err)
	}
	if err := json.Unmarshal(kve.Value(), state); err != nil || state.Device != device {
		return 0, fmt.Errorf("load state of %s: the document is damaged (remedy: delete the key and the bucket's %q keys, then start again): %w",
			device, "=position", errors.Join(errDamaged, err))
	}
	return kve.Revision(), nil
}

var errDamaged = errors.New("damaged document")

// touch returns a device's state in memory.
func (s *store) touch(device string) (*entry, bool) {
	e, ok := s.entries[device]
	if ok {
		s.used.MoveToFront(e.used)
	}
	return e, ok
}

func (s *store) mark(e *entry) {
	if !e.dirty {
		e.dirty = true
		s.dirty = append(s.dirty, e)
	}
}

// write brings the changed documents into the bucket. Those of which it fails
// stay marked. tooLarge hears of the documents that the bucket will never take.
func (s *store) write(ctx context.Context, tooLarge func(device string, err error)) error {
	err := each(len(s.dirty), func(i int) error {
		e := s.dirty[i]
		err := s.fault("put")
		if err == nil {
			err = s.put(ctx, e)
		}
		if hopeless(err) {
			tooLarge(e.state.Device, err)
			err = nil
		}
		if err == nil {
			e.dirty = false
		}
		return err
	})
	left := s.dirty[:0]
	for _, e := range s.dirty {
		if e.dirty {
			left = append(left, e)
		}
	}
	clear(s.dirty[len(left):])
	s.dirty = left
	return err
}

// put writes one document in place of the one that was read. When another
// writer was there, the one that is further along the log stays: documents are
// functions of the log, so it holds all that this one does.
func (s *store) put(ctx context.Context, e *entry) error {
	key, text := events.Escape(e.state.Device), e.state.appendKept(nil)
	for {
		revision, err := s.update(ctx, key, text, e.revision)
		if err == nil {
			e.revision = revision
			return nil
		}
		if !conflicts(err) {
			return fmt.Errorf("write state of %s: %w", e.state.Device, err)
		}
		there := State{Device: e.state.Device}
		if e.revision, err = s.get(ctx, &there); err != nil {
			return err
		}
		if e.revision > 0 && !before(there.Position, e.state.Position) {
			*e.state = there
			return nil
		}
	}
}

func (s *store) update(ctx context.Context, key string, text []byte, revision uint64) (uint64, error) {
	if revision == 0 {
		return s.kv.Create(ctx, key, text)
	}
	return s.kv.Update(ctx, key, text, revision)
}

// shrink forgets the devices that were not used for longest.
func (s *store) shrink() {
	for e := s.used.Back(); e != nil && s.used.Len() > s.size; {
		older, old := e.Prev(), e.Value.(*entry)
		if !old.dirty {
			s.used.Remove(e)
			delete(s.entries, old.state.Device)
		}
		e = older
	}
}

// each calls f for 0 to n-1, several at a time, and returns one of the errors.
func each(n int, f func(int) error) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		next  int
		first error
	)
	for range min(n, parallel) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := first != nil
				mu.Unlock()
				if i >= n || stop {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					first = err
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}
