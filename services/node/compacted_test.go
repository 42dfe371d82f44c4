package node

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/catalog"
	"github.com/tachograph/tachograph/projections/forgotten"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/services/auth"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/roster"
	"github.com/tachograph/tachograph/services/shadows"
)

// request asks a node as its administrator.
func request(t testing.TB, n *Node, method, path, body string, headers ...string) (status int, answer string) {
	t.Helper()
	token, err := os.ReadFile(n.addrs.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+n.addrs.HTTP+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// must is request for what has to succeed.
func must(t testing.TB, n *Node, method, path, body string, headers ...string) string {
	t.Helper()
	status, answer := request(t, n, method, path, body, headers...)
	if status/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return answer
}

// foldedAnew is what every fold of control facts comes to that begins now.
func foldedAnew(t testing.TB, log events.Log, devices ...string) (all map[string]string) {
	t.Helper()
	ctx, quiet := t.Context(), slog.New(slog.DiscardHandler)
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	all = map[string]string{}
	put := func(what string, value any) {
		b, err := json.Marshal(value)
		fail(err)
		all[what] = string(b)
	}
	c, err := catalog.Open(ctx, log, quiet)
	fail(err)
	var versions []string
	for _, s := range c.Schemas().All() {
		versions = append(versions, fmt.Sprint(s.Name(), " ", s.Version(), " ", s.Source()))
	}
	put("schemas", versions)
	ledger, err := forgotten.Open(ctx, log)
	fail(err)
	put("ledger", ledger.All())
	directory, err := auth.Open(ctx, log, quiet)
	fail(err)
	put("devices", directory.List("", 1000))
	r, err := roster.Open(ctx, roster.Config{Log: log})
	fail(err)
	s, err := shadows.Open(ctx, shadows.Config{Log: log})
	fail(err)
	cs, err := commands.Open(ctx, commands.Config{Log: log})
	fail(err)
	put("pending", s.Pending("", "", 1000))
	for _, device := range devices {
		put("presence of "+device, r.Get(device))
		for _, name := range append(s.Names(device, "", 1000), "", "gone") {
			doc, at := s.Get(device, name)
			put("shadow "+name+" of "+device, []any{string(doc.Get(0, "")), at, doc.Exists, doc.Version, doc.At, doc.Converged()})
		}
		var open []any
		for _, v := range cs.List(device, 1000) {
			if !v.State.Final() {
				open = append(open, v, v.Due())
			}
		}
		put("open commands of "+device, open)
	}
	return all
}

func same(t testing.TB, when string, got, want map[string]string) {
	t.Helper()
	for what := range want {
		if got[what] != want[what] {
			t.Errorf("%s, %s differs:\ngot  %.1500s\nwant %.1500s", when, what, got[what], want[what])
		}
	}
	if len(got) != len(want) || len(want) == 0 {
		t.Errorf("%s: %d answers, want %d", when, len(got), len(want))
	}
}

// comesAndGoes appends the presence of a car that connects and disconnects so many
// times, and has then one connection, or none.
func comesAndGoes(t testing.TB, log events.Log, device string, times int, stays bool) {
	t.Helper()
	var d presence.Device
	last := uint64(0)
	var evs []events.Event
	flush := func() {
		at, err := log.Append(t.Context(), events.At(last), evs...)
		if err != nil {
			t.Fatal(err)
		}
		last, evs = at.Seq, nil
	}
	add := func(f presence.Fact, news bool) {
		if !news {
			return
		}
		payload, err := f.Payload()
		if err != nil {
			t.Fatal(err)
		}
		d.Evolve(f)
		evs = append(evs, events.Event{Stream: events.Stream{Kind: events.Presence, ID: device}, Type: f.Type, ID: events.UniqueID(), Payload: payload})
		if len(evs) >= 500 && d.Offline { // else the node's own roster would say so
			flush()
		}
	}
	at := int64(1_700_000_000_000)
	for i := range times {
		session := fmt.Sprint(device, "-", i)
		add(d.Connect(session, device, "a gateway that was", at+int64(i)*60_000))
		if i < times-1 || !stays {
			add(d.Disconnect(session, presence.Network, at+int64(i)*60_000+20_000))
			if i%3 == 0 {
				add(d.GoOffline(at+int64(i)*60_000+55_000, 30_000))
			}
		}
	}
	if len(evs) > 0 {
		flush()
	}
}

// changes has a shadow changed so many times.
func changes(t testing.TB, n *Node, device, query string, times int) {
	t.Helper()
	for i := range times {
		must(t, n, "POST", "/v1/devices/"+device+"/shadow"+query, fmt.Sprintf(`{"state":{"desired":{"target":%d,"lights":{"l%d":[1,{"x":%d}]}},"reported":{"target":%d,"note":"%s"}}}`, i/2*2, i%4, i, i, strings.Repeat("n", 200)))
	}
}
