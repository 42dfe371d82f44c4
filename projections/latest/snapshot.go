package latest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// SnapshotStream is the name of the stream that keeps snapshots, which make
// looks at the past short. It can be thrown away: a look then folds more.
const SnapshotStream = "SNAPSHOTS"

// Snapshots are states of devices as they were at some time.
type Snapshots struct {
	js jetstream.JetStream
}

// OpenSnapshots creates the stream if it is missing. When it is full the oldest
// snapshots go. maxBytes 0 is no limit but the disk's.
func OpenSnapshots(ctx context.Context, js jetstream.JetStream, replicas int, maxBytes int64) (*Snapshots, error) {
	if maxBytes == 0 {
		maxBytes = -1
	}
	_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: SnapshotStream, Description: "states of devices at past moments; a fold of the log", Subjects: []string{"snapshot.*.*"}, MaxMsgsPerSubject: 1,
		Storage: jetstream.FileStorage, Replicas: max(1, replicas), Discard: jetstream.DiscardOld, MaxBytes: maxBytes,
		AllowDirect: true, Compression: jetstream.S2Compression,
	})
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return &Snapshots{js: js}, nil
}

// put keeps a state, in place of the one that an earlier fold kept there, whose
// bytes are overwritten: they may hold what has to be forgotten.
func (s *Snapshots) put(ctx context.Context, state *State) error {
	subject := fmt.Sprintf("snapshot.%s.%d", events.Escape(state.Device), state.Events/snapshotEvery)
	stream, err := s.js.Stream(ctx, SnapshotStream)
	if err != nil {
		return fmt.Errorf("keep snapshot of %s: %w", state.Device, err)
	}
	if there, err := stream.GetLastMsgForSubject(ctx, subject); err == nil {
		if err := stream.SecureDeleteMsg(ctx, there.Sequence); err != nil {
			return fmt.Errorf("keep snapshot of %s: %w", state.Device, err)
		}
	}
	if _, err := s.js.Publish(ctx, subject, state.appendKept(nil)); err != nil {
		return fmt.Errorf("keep snapshot of %s: %w", state.Device, err)
	}
	return nil
}

// A shelf holds the snapshots of one device.
type shelf struct {
	stream  jetstream.Stream
	device  string
	prefix  string
	numbers []uint64 // ascending
}

func (s *Snapshots) of(ctx context.Context, device string) (*shelf, error) {
	h := &shelf{device: device, prefix: "snapshot." + events.Escape(device) + "."}
	fail := func(err error) (*shelf, error) { return nil, fmt.Errorf("find snapshots of %s: %w", device, err) }
	var err error
	if h.stream, err = s.js.Stream(ctx, SnapshotStream); err != nil {
		return fail(err)
	}
	info, err := h.stream.Info(ctx, jetstream.WithSubjectFilter(h.prefix+"*"))
	if err != nil {
		return fail(err)
	}
	h.numbers = make([]uint64, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		n, err := strconv.ParseUint(strings.TrimPrefix(subject, h.prefix), 10, 64)
		if err != nil {
			return fail(err)
		}
		h.numbers = append(h.numbers, n)
	}
	slices.Sort(h.numbers)
	return h, nil
}

// get returns the snapshot of a number; ok is false when there is none.
func (h *shelf) get(ctx context.Context, number uint64) (state State, ok bool, err error) {
	msg, err := h.stream.GetLastMsgForSubject(ctx, h.prefix+strconv.FormatUint(number, 10))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return state, false, nil
	}
	if err == nil {
		if err = json.Unmarshal(msg.Data, &state); err != nil || state.Device != h.device {
			err = fmt.Errorf("snapshot %d is damaged: %w", number, errors.Join(errDamaged, err))
		}
	}
	if err != nil {
		return State{}, false, fmt.Errorf("find snapshots of %s: %w", h.device, err)
	}
	return state, true, nil
}

// last returns the newest snapshot that fits, where each one before it does, too;
// number is 0 when none does. It looks at log2 of them.
func (h *shelf) last(ctx context.Context, fits func(*State) bool) (state State, number uint64, err error) {
	state.Device = h.device
	for low, high := 0, len(h.numbers); low < high; {
		middle := (low + high) / 2
		found, ok, err := h.get(ctx, h.numbers[middle])
		switch {
		case err != nil:
			return State{}, 0, err
		case !ok: // it has just gone
			h.numbers = slices.Delete(h.numbers, middle, middle+1)
			high--
		case fits(&found):
			state, number, low = found, h.numbers[middle], middle+1
		default:
			high = middle
		}
	}
	return state, number, nil
}

// holds tells whether the device had a snapshot of that number.
func (h *shelf) holds(number uint64) bool {
	_, ok := slices.BinarySearch(h.numbers, number)
	return ok
}
