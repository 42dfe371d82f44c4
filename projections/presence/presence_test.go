package presence

import (
	"math/rand/v2"
	"testing"
)

// TestModel: whatever comes in whatever order, a device is there as long as one
// of its connections is, versions count up, and offline is said once.
func TestModel(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 3))
		var d Device
		there := map[string]bool{}
		now, away, told := int64(1000), int64(0), false
		for range 60 {
			now += int64(r.IntN(20))
			session := string(rune('a' + r.IntN(4)))
			before := d.Version
			var f Fact
			var news bool
			switch r.IntN(3) {
			case 0:
				if f, news = d.Connect(session, "c", "g", now); news == there[session] {
					t.Fatalf("seed %d: connect of %s is news: %v", seed, session, news)
				}
				there[session], told = true, false
			case 1:
				if f, news = d.Disconnect(session, Network, now); news != there[session] {
					t.Fatalf("seed %d: disconnect of %s is news: %v", seed, session, news)
				}
				delete(there, session)
				if news && len(there) == 0 {
					away = now
				}
			case 2:
				f, news = d.GoOffline(now, 30)
				if want := len(there) == 0 && away > 0 && now >= away+30 && !told; news != want {
					t.Fatalf("seed %d: offline is %v, want %v", seed, news, want)
				}
				told = told || news
			}
			if !news {
				continue
			}
			b, err := f.Payload()
			if err != nil {
				t.Fatal(err)
			}
			if f, err = ParseFact(b); err != nil {
				t.Fatal(err)
			}
			d.Evolve(f)
			if d.Version != before+1 || d.Connected() != (len(there) > 0) {
				t.Fatalf("seed %d: version %d after %d, connected %v", seed, d.Version, before, d.Connected())
			}
			if _, err := TableRows(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, bad := range []string{``, `{}`, `{"type":"connected"}`, `{"type":"gone","session":"s"}`} {
		if _, err := ParseFact([]byte(bad)); err == nil {
			t.Errorf("%s is a fact", bad)
		}
	}
}
