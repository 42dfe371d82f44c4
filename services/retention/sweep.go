package retention

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What fills a block file of a KV bucket's stream (4 MiB, nats-server 2.15), so
// that the next message begins another: so many messages of so many bytes.
const (
	fillBytes = 256 << 10
	fillCount = 20
	fillKey   = "=sweep.fill" // Escape makes no "=s": no device has it
)

// Sweep has a KV bucket's stream get rid of the bytes of values that were
// replaced or removed. The server leaves them in their block files until a file
// holds nothing else: so the newest file is filled up, then every key is written
// again, with the value that it has, which empties all files before. Who watches
// the bucket hears every value again. A key that changes meanwhile is left alone.
func Sweep(ctx context.Context, js jetstream.JetStream, bucket string) error {
	fail := func(err error) error { return fmt.Errorf("sweep bucket %s: %w", bucket, err) }
	stream, err := js.Stream(ctx, "KV_"+bucket)
	if err != nil {
		return fail(err)
	}
	prefix := "$KV." + bucket + "."
	for range fillCount {
		if _, err := js.Publish(ctx, prefix+fillKey, make([]byte, fillBytes)); err != nil {
			return fail(err)
		}
	}
	last := stream.CachedInfo().State.LastSeq + fillCount
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return fail(err)
	}
	for _, subject := range slices.Sorted(maps.Keys(info.State.Subjects)) {
		if subject == prefix+fillKey {
			continue
		}
		if err := writeAgain(ctx, js, stream, subject, last); err != nil {
			return fail(err)
		}
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(prefix+fillKey)); err != nil {
		return fail(err)
	}
	return nil
}

// writeAgain writes a key's last message, which may say that it was deleted,
// unless it is newer than a sequence or has just changed.
func writeAgain(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, subject string, newer uint64) error {
	msg, err := stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && msg.Sequence > newer {
		return nil
	}
	if err != nil {
		return err
	}
	again := &nats.Msg{Subject: subject, Header: nats.Header{}, Data: msg.Data}
	for name, values := range msg.Header {
		// The server's own, of which it stood where: stored, they would stand in front
		// of those that tell where the new one is.
		if !strings.HasPrefix(name, "Nats-") || name == jetstream.MarkerReasonHeader {
			again.Header[name] = values
		}
	}
	again.Header.Set(nats.ExpectedLastSubjSeqHdr, strconv.FormatUint(msg.Sequence, 10))
	_, err = js.PublishMsg(ctx, again)
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return nil
	}
	return err
}
