package command

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// TestModel drives random operations with clock steps, repeats and crashes
// (the command is folded again from its payloads) and holds the command to
// rules told by a naive observer of the wire.
func TestModel(t *testing.T) {
	answers := []State{Accepted, Running, Succeeded, Failed, Rejected, Cancelled, TimedOut, Queued, "nonsense"}
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 2))
		policy := []Policy{NowOrNever, UntilDeadline}[r.IntN(2)]
		var (
			c          Command
			payloads   [][]byte
			now        = int64(0)
			written    int
			deviceSaid State // the device's first final word
			ended      State
		)
		keep := func(f Fact) {
			if f.Type == "" {
				return
			}
			b, err := f.Payload()
			if err != nil {
				t.Fatal(err)
			}
			payloads = append(payloads, b)
			before := c.State
			c.Evolve(f)
			if before.Final() && c.State != before && !(before == TimedOut && c.Late) {
				t.Fatalf("seed %d: %s became %s", seed, before, c.State)
			}
			if c.State.rank() < before.rank() && f.Type != TypeUnsent {
				t.Fatalf("seed %d: went back from %s to %s", seed, before, c.State)
			}
		}
		f, err := c.Queue(Order{ID: "c", Device: "d", Name: "unlock", Policy: policy, Deadline: 100, AnswerBy: 200}, 0, "api")
		if err != nil {
			t.Fatal(err)
		}
		keep(f)
		for range 40 {
			now += int64(r.IntN(15)) - 3 // the clock may step back
			switch r.IntN(7) {
			case 0, 1:
				f, err := c.Send(now)
				if err == nil {
					keep(f)
					if r.IntN(4) == 0 { // the device went in the last moment
						f, _ := c.Unsend(c.Attempts, now, "gone")
						keep(f)
						break
					}
					written++
					if now >= 100 {
						t.Fatalf("seed %d: written at %d, after the deadline", seed, now)
					}
				} else if f.Type != "" {
					t.Fatalf("seed %d: a refused send has a fact", seed)
				}
			case 2:
				f, _ := c.Deliver(c.Attempts, now)
				keep(f)
			case 3, 4:
				said := answers[r.IntN(len(answers))]
				f, err := c.Answer(Answer{State: said}, now)
				keep(f)
				if written == 0 && !errors.Is(err, ErrNotSent) && !errors.Is(err, ErrNotAnAnswer) {
					t.Fatalf("seed %d: %s before it was sent: %v", seed, said, err)
				}
				if said.Final() && written > 0 && deviceSaid == "" && ended == "" {
					deviceSaid = said
				}
			case 5:
				if r.IntN(4) == 0 {
					f, _ := c.Cancel(now, "api", "")
					keep(f)
					if c.State == Cancelled && written == 0 {
						ended = Cancelled
					}
				}
			case 6:
				if f, ok := c.Pass(now); ok {
					keep(f)
				}
			}
			if r.IntN(10) == 0 {
				var again Command
				for _, b := range payloads {
					f, err := ParseFact(b)
					if err != nil {
						t.Fatal(err)
					}
					again.Evolve(f)
				}
				if again.State != c.State || again.Attempts != c.Attempts || again.Due() != c.Due() || again.byServer != c.byServer {
					t.Fatalf("seed %d: folded again: %+v, was %+v", seed, again, c)
				}
				c = again
			}
		}
		if f, ok := c.Pass(1000); ok {
			keep(f)
		}
		switch {
		case policy == NowOrNever && written > 1:
			t.Fatalf("seed %d: now_or_never written %d times", seed, written)
		case !c.State.Final():
			t.Fatalf("seed %d: ends as %s", seed, c.State)
		case written > 0 && c.State == Expired:
			t.Fatalf("seed %d: expired though it was written", seed)
		case written == 0 && c.State != Expired && c.State != Cancelled:
			t.Fatalf("seed %d: %s though it was never written", seed, c.State)
		case deviceSaid != "" && c.State != deviceSaid:
			t.Fatalf("seed %d: is %s, the device said %s first", seed, c.State, deviceSaid)
		}
	}
}

func FuzzParseFact(f *testing.F) {
	f.Add([]byte(`{"type":"queued","at":1,"by":"api","order":{"id":"c","device":"d","name":"n","policy":"now_or_never","deadline":2,"answer_by":3}}`))
	f.Add([]byte(`{"type":"refused","asked":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		fact, err := ParseFact(b)
		if err != nil {
			return
		}
		var c Command
		c.Evolve(fact)
		c.Due()
	})
}
