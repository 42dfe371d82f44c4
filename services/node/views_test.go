package node

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/projections/latest"
)

// TestListenerWatchesTheView: with a KV client and the prefix, more keys than
// fit between two words of flow control, then live.
func TestListenerWatchesTheView(t *testing.T) {
	s := newStage(t)
	const keys = 3_000
	put := func(i int) {
		t.Helper()
		if _, err := s.views.Put(t.Context(), fmt.Sprintf("car-%d", i), slices.Repeat([]byte("x"), 2000)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range keys {
		put(i)
	}
	js, err := jetstream.NewWithAPIPrefix(s.dial(t, listenerUser, "listening"), ViewPrefix)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), latest.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	if entry, err := kv.Get(t.Context(), "car-1"); err != nil || len(entry.Value()) != 2000 {
		t.Fatal(entry, err)
	}
	w, err := kv.WatchAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := 0; i <= keys+1; i++ {
		select {
		case e := <-w.Updates():
			switch {
			case e == nil && i == keys: // all present ones
				put(keys)
			case e == nil || i < keys && e.Key() != fmt.Sprintf("car-%d", i) || i == keys+1 && e.Key() != fmt.Sprintf("car-%d", keys):
				t.Fatalf("update %d is %v", i, e)
			}
		case <-time.After(time.Minute):
			t.Fatalf("waiting for update %d", i)
		}
	}
}

// TestListenerCannotWriteViews: JetStream publishes wherever a request says. No
// request of a listener has it write to a bucket or to JetStream's own API, and
// one that KV clients don't make is told why it is refused.
func TestListenerCannotWriteViews(t *testing.T) {
	s := newStage(t)
	if _, err := s.views.Put(t.Context(), "car-1", []byte(`{"device":"car-1"}`)); err != nil {
		t.Fatal(err)
	}
	nc := s.dial(t, listenerUser, "listening")
	before := s.viewState(t)
	targets := []string{
		"$KV.latest.victim", "$KV.shadow.victim", "$JS.API.STREAM.DELETE.KV_latest", "tacho.telemetry.victim.position",
		"view.STREAM.INFO.KV_latest", servicesInbox + ".x", "_INBOX", "_INBOX.*", "_INBOX." + strings.Repeat("a", 300),
	}
	hears := s.dial(t, listenerUser, "listening")
	sub, err := hears.SubscribeSync("tacho.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := hears.Flush(); err != nil {
		t.Fatal(err)
	}
	consumer := func(config map[string]any) []byte {
		t.Helper()
		b, err := json.Marshal(map[string]any{"stream_name": "KV_latest", "config": config})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, to := range targets {
		for subject, body := range map[string]string{
			"DIRECT.GET.KV_latest.$KV.latest.car-1": "", "DIRECT.GET.KV_latest": `{"multi_last":["$KV.latest.>"]}`,
			"STREAM.MSG.GET.KV_latest": `{"last_by_subj":"$KV.latest.car-1"}`, "STREAM.INFO.KV_latest": "",
		} {
			if err := nc.PublishRequest(ViewPrefix+"."+subject, to, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask := func(body []byte) (answer struct {
		Error *struct{ Description string }
	}) {
		t.Helper()
		msg, err := nc.Request(ViewPrefix+".CONSUMER.CREATE.KV_latest", body, 30*time.Second)
		if err == nil {
			err = json.Unmarshal(msg.Data, &answer)
		}
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	for _, to := range append(targets, "") {
		if a := ask(consumer(map[string]any{"deliver_subject": to, "ack_policy": "none"})); a.Error == nil || !strings.Contains(a.Error.Description, "push consumers that deliver to _INBOX.>") {
			t.Errorf("a consumer that delivers to %q: %+v", to, a.Error)
		}
	}
	for want, body := range map[string][]byte{
		"is no JSON":     []byte("{"),
		"is too long":    slices.Repeat([]byte(" "), viewRequestSize+1),
		"can't be dur":   consumer(map[string]any{"deliver_subject": "_INBOX.x", "ack_policy": "none", "durable_name": "x"}),
		"doesn't acknow": consumer(map[string]any{"deliver_subject": "_INBOX.x", "ack_policy": "explicit"}),
		"push consumers": []byte(`{"stream_name":"KV_latest","config":{"deliver_subject":"_INBOX.x","ack_policy":"none","DELIVER_SUBJECT":"$KV.latest.victim"}}`),
	} {
		if a := ask(body); a.Error == nil || !strings.Contains(a.Error.Description, want) {
			t.Errorf("want %q: %+v", want, a.Error)
		}
	}
	if after := s.viewState(t); after != before {
		t.Errorf("the bucket went from %+v to %+v", before, after)
	}
	if msg, err := sub.NextMsg(100 * time.Millisecond); err == nil {
		t.Errorf("a listener heard %s: %s", msg.Subject, msg.Data)
	}
}

// viewState is where the bucket's stream is, and how many consumers it has.
func (s *stage) viewState(t *testing.T) [3]uint64 {
	t.Helper()
	status, err := s.views.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info := status.(*jetstream.KeyValueBucketStatus).StreamInfo()
	return [3]uint64{info.State.FirstSeq, info.State.LastSeq, uint64(info.State.Consumers)}
}
