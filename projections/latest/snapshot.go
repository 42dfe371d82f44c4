package latest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// SnapshotStream is the name of the stream that keeps snapshots, which make
// looks at the past short. It can be thrown away: a look then folds more.
const SnapshotStream = "SNAPSHOTS"

// snapshotEvery is how many events of a device lie between two snapshots.
const snapshotEvery = 4096

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
	if _, err := s.js.Publish(ctx, subject, state.AppendJSON(nil)); err != nil {
		return fmt.Errorf("keep snapshot of %s: %w", state.Device, err)
	}
	return nil
}

// before returns the newest state that holds nothing that arrived after a time;
// ok is false when there is none. It looks at log2 of a device's snapshots.
func (s *Snapshots) before(ctx context.Context, device string, at time.Time) (state State, ok bool, err error) {
	fail := func(err error) (State, bool, error) {
		return State{}, false, fmt.Errorf("find snapshot of %s: %w", device, err)
	}
	prefix := "snapshot." + events.Escape(device) + "."
	stream, err := s.js.Stream(ctx, SnapshotStream)
	if err != nil {
		return fail(err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+"*"))
	if err != nil {
		return fail(err)
	}
	numbers := make([]uint64, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		n, err := strconv.ParseUint(strings.TrimPrefix(subject, prefix), 10, 64)
		if err != nil {
			return fail(err)
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for low, high := 0, len(numbers); low < high; {
		middle := (low + high) / 2
		msg, err := stream.GetLastMsgForSubject(ctx, prefix+strconv.FormatUint(numbers[middle], 10))
		if err != nil {
			return fail(err)
		}
		found := State{Device: device}
		if err := json.Unmarshal(msg.Data, &found); err != nil || found.Device != device {
			return fail(fmt.Errorf("snapshot %d is damaged: %w", numbers[middle], errors.Join(errDamaged, err)))
		}
		if found.Received.After(at) {
			high = middle
		} else {
			state, ok, low = found, true, middle+1
		}
	}
	return state, ok, nil
}
