package dialect

import (
	"bufio"
	"errors"
	"os"
	"strings"
	"testing"
)

// TestTranscripts replays testdata: what car-1 may say and hear in each
// convention.
func TestTranscripts(t *testing.T) {
	for _, d := range []*Dialect{Native()} {
		f, err := os.Open("testdata/" + d.Name() + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		n, ran := 0, 0
		for lines.Scan() {
			n++
			line, want, is := strings.Cut(lines.Text(), "->")
			if !is || strings.HasPrefix(line, "#") {
				continue
			}
			verb, topic, _ := strings.Cut(strings.TrimSpace(line), " ")
			var got string
			switch verb {
			case "publish":
				route, err := d.Parse("car-1", topic)
				if got = word(err); err == nil {
					got = strings.TrimSpace([]string{Telemetry: "telemetry", Shadow: "shadow", Command: "command"}[route.Kind] + " " + route.Type + " " + route.Name)
				}
			case "subscribe":
				got = word(d.Subscribable("car-1", topic))
			}
			if got != strings.TrimSpace(want) {
				t.Errorf("%s.txt:%d: %s %s -> %s", d.Name(), n, verb, topic, got)
			}
			ran++
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil || ran == 0 {
			t.Errorf("%s: %d lines: %v", d.Name(), ran, err)
		}
	}
}

func word(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrForeign):
		return "foreign"
	case errors.Is(err, ErrUnknown):
		return "unknown"
	case errors.Is(err, ErrFilter):
		return "malformed"
	}
	return err.Error()
}

// TestTopics: what is sent to a device has a short and a long topic.
func TestTopics(t *testing.T) {
	for route, want := range map[Route]string{
		{Kind: Shadow, Type: "update/delta"}:            "shadow/update/delta $aws/things/d/shadow/update/delta",
		{Kind: Shadow, Type: "get/accepted", Name: "n"}: "shadow/name/n/get/accepted $aws/things/d/shadow/name/n/get/accepted",
		{Kind: Command, Type: "command", Name: "c1"}:    "commands/c1 commands/d/c1",
		{Kind: Command, Type: "something", Name: "c1"}:  "",
		{Kind: Telemetry, Type: "position"}:             "",
	} {
		got := Native().Topics("d", route)
		if strings.Join(got, " ") != want {
			t.Errorf("%+v: %v, want %s", route, got, want)
		}
		for _, topic := range got {
			if err := Native().Subscribable("d", topic); err != nil {
				t.Errorf("%s: %v", topic, err)
			}
		}
	}
}

// TestDialectsAreData: conventions of others, as far as they need the notation.
func TestDialectsAreData(t *testing.T) {
	d, err := New("others", []Rule{
		{Topic: "v1/devices/me/telemetry", Kind: Telemetry, Type: "telemetry"},
		{Topic: "/devices/{device}/events/{message}", Kind: Telemetry},
	}, nil, []string{"$aws/things/{device}/shadow/#"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := d.Parse("car", "v1/devices/me/telemetry"); err != nil || r.Type != "telemetry" {
		t.Error(r, err)
	}
	if _, err := d.Parse("car", "/devices/bus/events/x"); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
	for filter, want := range map[string]error{
		"$aws/things/car/shadow/update/delta": nil, "$aws/things/car/shadow/#": nil,
		"$aws/things/bus/shadow/#": ErrForeign, "$aws/#": nil, "$aws/things/+/shadow/get": ErrForeign,
	} {
		if err := d.Subscribable("car", filter); !errors.Is(err, want) {
			t.Errorf("%s: %v", filter, err)
		}
	}

	for _, bad := range []Rule{
		{Topic: "", Kind: Telemetry}, {Topic: "{device}/x", Kind: Telemetry, Type: "x"}, {Topic: "a/{message}", Kind: Telemetry, Type: "x"},
		{Topic: "a/b", Kind: Telemetry}, {Topic: "a/{message}"}, {Topic: "a/#", Kind: Telemetry, Type: "x"}, {Topic: "a/{message}/{message}", Kind: Telemetry}, {Topic: "a/{x}", Kind: Telemetry, Type: "x"}, {Topic: "a/{name}/{name}", Kind: Telemetry, Type: "x"},
	} {
		if _, err := New("bad", []Rule{bad}, nil, nil); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	for _, bad := range []string{"#", "a/#/b", "*", "a/{message}"} {
		if _, err := New("bad", nil, nil, []string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a/b", "a", false}, {"a", "a/b", false}, {"a/#", "a", true}, {"a/#", "a/b/c", true}, {"a/#", "ab", false},
		{"#", "a/b", true}, {"#", "$SYS/x", false}, {"+/x", "$SYS/x", false}, {"$SYS/+", "$SYS/x", true}, {"+", "a", true}, {"+", "a/b", false},
		{"+/+", "/a", true}, {"/+", "/a", true}, {"+", "/a", false}, {"a/+", "a/", true}, {"a/+", "a", false}, {"a/+/c", "a/b/c", true}, {"+/+/#", "a/b", true},
	} {
		if got := Match(c.filter, c.topic); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.filter, c.topic, got)
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	d := Native()
	if n := testing.AllocsPerRun(100, func() {
		_, _ = d.Parse("car-1", "telemetry/car-1/position")
		_, _ = d.Parse("car-1", "telemetry/car-2/position")
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, topic := range []string{"telemetry/position", "telemetry/car-1/position", "telemetry/car-2/x", "$SYS/x", "", "/", "a//b", "\x00"} {
		f.Add("car-1", topic)
	}
	d := Native()
	f.Fuzz(func(t *testing.T, device, topic string) {
		route, err := d.Parse(device, topic)
		if err != nil {
			return
		}
		if route.Type == "" || strings.Contains(route.Type, "/") {
			t.Fatalf("type %q of %q", route.Type, topic)
		}
		short, ok := d.Format(device, route)
		again, err := d.Parse(device, short)
		if !ok || err != nil || again != route {
			t.Errorf("%q -> %+v -> %q -> %+v, %v", topic, route, short, again, err)
		}
	})
}

// What may be subscribed to never matches a topic of another device's long form.
func FuzzSubscribable(f *testing.F) {
	for _, filter := range []string{"commands/#", "commands/+", "commands/car-1/#", "commands/+/x", "#", "shadow/car-2/#", "a/#/b"} {
		f.Add(filter, "car-2", "x")
	}
	d := Native()
	f.Fuzz(func(t *testing.T, filter, other, name string) {
		if d.Subscribable("car-1", filter) != nil || other == "car-1" || strings.ContainsAny(other+name, "/+#") {
			return
		}
		if topic := "commands/" + other + "/" + name; Match(filter, topic) && !strings.HasSuffix(filter, "#") {
			t.Errorf("%q listens to %q", filter, topic)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("a/+/#", "a/b/c")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if !ValidFilter(filter) || !ValidTopic(topic) {
			return
		}
		got := Match(filter, topic)
		if want := slowMatch(filter, topic); got != want {
			t.Errorf("Match(%q, %q) = %v", filter, topic, got)
		}
	})
}

func slowMatch(filter, topic string) bool {
	fs, ts := strings.Split(filter, "/"), strings.Split(topic, "/")
	if strings.HasPrefix(topic, "$") && (fs[0] == "+" || fs[0] == "#") {
		return false
	}
	for i, f := range fs {
		if f == "#" {
			return i <= len(ts)
		}
		if i >= len(ts) || f != "+" && f != ts[i] {
			return false
		}
	}
	return len(fs) == len(ts)
}
