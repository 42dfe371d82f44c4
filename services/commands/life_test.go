package commands_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// TestUnlock is a life without trouble, and then a device that goes on talking.
func TestUnlock(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{})
	car := s.connect("car-1", s.gw.Add(t, "car-1"))
	v := s.queue(order("car-1", command.NowOrNever, func(r *commands.Request) { r.Parameters = []byte(`{"door":2}`) }))
	h := car.hears("commands/" + v.Order.ID)
	if h.ID != v.Order.ID || h.Name != "unlock" || string(h.Parameters) != `{"door":2}` || h.Deadline != v.Order.Deadline || h.Attempt != 1 || h.DryRun {
		t.Errorf("%s", h.Raw.Payload())
	}
	s.becomes("car-1", h.ID, command.Delivered)
	car.answer(h.ID, `{"state":"accepted"}`)
	car.answer(h.ID, `{"state":"running","result":{"percent":50}}`)
	car.answer(h.ID, "\x0a\x07running\x22\x0e{\"percent\":90}") // the same as protobuf
	car.answer(h.ID, `{"state":"succeeded","code":"ok","reason":"open","result":{"percent":100}}`)
	car.answer(h.ID, `{"state":"succeeded","result":{"percent":100}}`) // again
	v = s.becomes("car-1", h.ID, command.Succeeded)
	if got := steps(v); got != "queued sent delivered accepted running progress succeeded" || string(v.Result) != `{"percent":100}` || v.Attempts != 1 {
		t.Errorf("%s, %s, %d attempts", got, v.Result, v.Attempts)
	}

	car.answer(h.ID, `{"state":"failed"}`)
	car.answer(h.ID, `{"state":"dancing"}`)
	car.answer(h.ID, `{"state":`)
	car.answer("nothing", `{"state":"succeeded"}`)
	car.answer(strings.Repeat("x", 10_000), `{"state":"succeeded"}`)
	for reason, want := range map[string]float64{"final": 1, "not_an_answer": 1, "malformed": 1, "no_command": 2} {
		if got := s.refusals(reason); got != want {
			t.Errorf("%v answers refused as %s, want %v", got, reason, want)
		}
	}
	v, err := s.Get(t.Context(), "car-1", h.ID)
	if err != nil || v.State != command.Succeeded || v.Refusals != 2 {
		t.Errorf("%s, %d refusals, %v", v.State, v.Refusals, err)
	}
	car.silence()
}

// TestNotThere: now means now.
func TestNotThere(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{})
	token := s.gw.Add(t, "car-1")
	v := s.queue(order("car-1", command.NowOrNever))
	v = s.becomes("car-1", v.Order.ID, command.Expired)
	if last := v.History[1]; last.By != command.ByGateway || last.Reason != "device is not connected" || v.Attempts != 0 {
		t.Errorf("%+v", last)
	}
	// Behind one that waits, it is still not there.
	waits := s.queue(order("car-1", command.UntilDeadline))
	never := s.queue(order("car-1", command.NowOrNever))
	s.becomes("car-1", never.Order.ID, command.Expired)
	car := s.connect("car-1", token)
	car.hears("commands/" + waits.Order.ID)
	s.becomes("car-1", waits.Order.ID, command.Delivered)
	car.silence()
}

// TestOrder: what waits for a device comes by priority, then as it was queued.
func TestOrder(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{InFlight: 1})
	token := s.gw.Add(t, "car-1")
	var want []string
	for i := range 10 {
		v := s.queue(order("car-1", command.UntilDeadline))
		want = append(want, v.Order.ID)
		gatewaytest.Eventually(t, "the clock goes on", func() bool { return time.Now().UnixMilli() > v.History[0].At })
		if i == 9 {
			v := s.queue(order("car-1", command.UntilDeadline, func(r *commands.Request) { r.Priority = 1 }))
			want = append([]string{v.Order.ID}, want...)
		}
	}
	car := s.connect("car-1", token)
	for _, id := range want {
		car.hears("commands/" + id)
	}
	if got := s.List("car-1", 100); len(got) != 11 || got[0].Order.ID != want[0] || got[10].Order.ID != want[1] {
		t.Errorf("lists %d, the newest %s, the oldest %s", len(got), got[0].Order.ID, got[10].Order.ID)
	}
}

// TestCancel: before it was sent it is an end, afterwards a request.
func TestCancel(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{})
	token := s.gw.Add(t, "car-1")
	v := s.queue(order("car-1", command.UntilDeadline))
	v, err := s.Cancel(t.Context(), "car-1", v.Order.ID, "operator", "changed my mind")
	if err != nil || v.State != command.Cancelled || !v.Changed {
		t.Fatal(v.State, err)
	}
	if v, err = s.Cancel(t.Context(), "car-1", v.Order.ID, "operator", ""); err != nil || v.Changed {
		t.Error(v.Changed, err)
	}

	car := s.connect("car-1", token)
	v = s.queue(order("car-1", command.UntilDeadline))
	car.hears("commands/" + v.Order.ID) // and not the one before
	s.becomes("car-1", v.Order.ID, command.Delivered)
	if v, err = s.Cancel(t.Context(), "car-1", v.Order.ID, "operator", ""); err != nil || v.State != command.Delivered || !v.CancelRequested {
		t.Fatal(v.State, err)
	}
	car.hears("cancel/" + v.Order.ID)
	car.Disconnect(0)
	car = s.connect("car-1", token)
	car.hears("cancel/" + v.Order.ID) // it may not have had it
	car.answer(v.Order.ID, `{"state":"cancelled","reason":"stopped"}`)
	v = s.becomes("car-1", v.Order.ID, command.Cancelled)
	if last := v.History[len(v.History)-1]; last.By != command.ByDevice || last.Reason != "stopped" {
		t.Errorf("%+v", last)
	}
	if _, err := s.Cancel(t.Context(), "car-1", "nothing", "operator", ""); !errors.Is(err, command.ErrNoCommand) {
		t.Error(err)
	}
}

// TestKey: the same request twice is one command, also long after its end.
func TestKey(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{Kept: 1})
	keyed := func(digest string) commands.Request {
		return order("car-1", command.NowOrNever, func(r *commands.Request) { r.Key, r.Digest = "k", digest })
	}
	first := s.queue(keyed("a"))
	s.becomes("car-1", first.Order.ID, command.Expired)
	if again := s.queue(keyed("a")); again.Order.ID != first.Order.ID || again.Changed || again.State != command.Expired {
		t.Errorf("%+v", again)
	}
	for range 3 { // what pushes it out of memory
		v := s.queue(order("car-1", command.NowOrNever))
		s.becomes("car-1", v.Order.ID, command.Expired)
	}
	past := keyed("a")
	past.Deadline, past.AnswerBy = time.Now().Add(-time.Second), time.Now()
	for _, r := range []commands.Request{keyed("a"), past} {
		if again := s.queue(r); again.Order.ID != first.Order.ID || again.Changed {
			t.Errorf("%+v", again)
		}
	}
	if _, err := s.Queue(t.Context(), keyed("b")); !errors.Is(err, command.ErrExists) {
		t.Error(err)
	}
	if other := s.queue(order("car-2", command.NowOrNever, func(r *commands.Request) { r.Key, r.Digest = "k", "b" })); other.Order.ID == first.Order.ID {
		t.Error("another device's key is the same")
	}
}

// TestNeverComes: ten thousand commands for a device that never comes cost what
// the limit says.
func TestNeverComes(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{Open: 100})
	ids := map[string]bool{}
	refused := 0
	for range 10_000 {
		v, err := s.Queue(t.Context(), order("car-1", command.UntilDeadline))
		switch {
		case errors.Is(err, commands.ErrTooMany):
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			ids[v.Order.ID] = true
		}
	}
	if len(ids) != 100 || refused != 9_900 {
		t.Errorf("%d taken, %d refused", len(ids), refused)
	}
	for id := range ids {
		if _, err := s.Cancel(t.Context(), "car-1", id, "operator", ""); err != nil {
			t.Fatal(err)
		}
		break
	}
	s.queue(order("car-1", command.UntilDeadline))
}

// TestRefused: what is no possible command.
func TestRefused(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{})
	for name, r := range map[string]commands.Request{
		"no name":      order("car-1", command.NowOrNever, func(r *commands.Request) { r.Name = "" }),
		"bad name":     order("car-1", command.NowOrNever, func(r *commands.Request) { r.Name = "a\nb" }),
		"no policy":    order("car-1", ""),
		"far deadline": order("car-1", command.UntilDeadline, within(1000*24*time.Hour, 1001*24*time.Hour)),
		"big":          order("car-1", command.NowOrNever, func(r *commands.Request) { r.Parameters = make([]byte, 1<<20) }),
		"no JSON":      order("car-1", command.NowOrNever, func(r *commands.Request) { r.Parameters = []byte("{") }),
		"early answer": order("car-1", command.NowOrNever, within(time.Hour, time.Minute)),
	} {
		if _, err := s.Queue(t.Context(), r); !errors.Is(err, command.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Queue(t.Context(), order("car-1", command.NowOrNever, within(-time.Second, time.Hour))); !errors.Is(err, command.ErrPastDeadline) {
		t.Error(err)
	}
}

// TestWatch follows a command from beginning to end.
func TestWatch(t *testing.T) {
	s := start(t, jetLog(t), commands.Limits{})
	car := s.connect("car-1", s.gw.Add(t, "car-1"))
	v := s.queue(order("car-1", command.UntilDeadline))
	go func() {
		h := <-car.heard
		for _, state := range []string{"accepted", "running", "succeeded"} {
			car.Publish("commands/"+h.ID+"/answer", 1, false, fmt.Sprintf(`{"state":%q}`, state))
		}
	}()
	var last commands.View
	for v, err := range s.Watch(t.Context(), "car-1", v.Order.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if len(v.History) <= len(last.History) {
			t.Errorf("%s after %s", steps(v), steps(last))
		}
		last = v
	}
	if last.State != command.Succeeded {
		t.Error(steps(last))
	}
}
