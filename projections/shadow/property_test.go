package shadow

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// randomObject makes objects with few names and values, so that they meet.
func randomObject(r *rand.Rand, depth int, nulls bool) map[string]any {
	o := map[string]any{}
	for range r.IntN(4) {
		o[string('a'+rune(r.IntN(4)))] = randomValue(r, depth-1, nulls)
	}
	return o
}

func randomValue(r *rand.Rand, depth int, nulls bool) any {
	switch k := r.IntN(7); {
	case k == 0 && nulls:
		return nil
	case k <= 2 && depth > 0:
		return randomObject(r, depth, nulls)
	case k == 3:
		return []any{float64(r.IntN(2)), "x"}
	case k == 4:
		return r.IntN(2) == 0
	default:
		return float64(r.IntN(3))
	}
}

func encode(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// oracleMerge is RFC 7396 with AWS's rule that empty objects vanish.
func oracleMerge(old, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	out := map[string]any{}
	if o, ok := old.(map[string]any); ok {
		for k, v := range o {
			out[k] = v
		}
	}
	for k, v := range p {
		if v == nil {
			delete(out, k)
		} else if m := oracleMerge(out[k], v); m == nil || reflect.DeepEqual(m, map[string]any{}) {
			delete(out, k)
		} else {
			out[k] = m
		}
	}
	return out
}

// TestFoldAgainstOracle drives random updates through the decider and through
// a naive merge of maps: every prefix must agree, the delta laid over reported
// must leave no delta, and each document must survive its own rendering.
func TestFoldAgainstOracle(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var doc Document
		want := map[string]any{}
		for step := range 30 {
			section := []string{"desired", "reported"}[r.IntN(2)]
			var patch any = randomObject(r, 4, true)
			if r.IntN(12) == 0 {
				patch = nil
			}
			body := fmt.Sprintf(`{"state":{%q:%s}}`, section, encode(patch))
			req, refused := ParseRequest([]byte(body), Limits{})
			if refused != nil {
				t.Fatalf("seed %d step %d: %s: %v", seed, step, body, refused)
			}
			fact, refused := Decide(doc, req, Context{At: int64(step) * 1000})
			if refused != nil {
				t.Fatalf("seed %d step %d: %s: %v", seed, step, body, refused)
			}
			before := string(doc.Get(0, ""))
			next := doc.Evolve(fact)
			if string(doc.Get(0, "")) != before {
				t.Fatalf("seed %d step %d: Evolve changed the document it was given", seed, step)
			}
			doc = next
			if patch == nil {
				delete(want, section)
			} else if m := oracleMerge(want[section], patch).(map[string]any); len(m) == 0 {
				delete(want, section)
			} else {
				want[section] = m
			}

			var got struct {
				State   map[string]any
				Version uint64
			}
			if err := json.Unmarshal(doc.Get(0, ""), &got); err != nil {
				t.Fatalf("seed %d step %d: %v in %s", seed, step, err, doc.Get(0, ""))
			}
			delta := got.State["delta"]
			delete(got.State, "delta")
			if !reflect.DeepEqual(got.State, want) {
				t.Fatalf("seed %d step %d: %s\ngot  %s\nwant %s", seed, step, body, encode(got.State), encode(want))
			}
			if got.Version != uint64(step)+1 {
				t.Fatalf("seed %d: version %d after %d updates", seed, got.Version, step+1)
			}
			if (delta == nil) != doc.Converged() {
				t.Fatalf("seed %d step %d: converged %v with delta %v", seed, step, doc.Converged(), delta)
			}
			if delta != nil {
				req, refused := ParseRequest([]byte(`{"state":{"reported":`+encode(delta)+`}}`), Limits{})
				if refused != nil {
					t.Fatal(refused)
				}
				fact, refused := Decide(doc, req, Context{At: 1})
				if refused != nil {
					t.Fatal(refused)
				}
				if after := doc.Evolve(fact); !after.Converged() {
					t.Fatalf("seed %d step %d: delta %s leaves delta %s", seed, step, encode(delta), after.Delta(0, ""))
				}
			}
		}
	}
}

// FuzzRequest: whatever a device sends is refused or folded without a panic,
// and what was folded can be read back from the log with the same result.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		`{"state":{"desired":{"a":[1,{"b":2}]},"reported":{"a":null}},"version":0,"clientToken":"x"}`,
		`{"state":{"desired":{"a":1e400,"b":-0.0,"c":"\ud83d\ude00"}}}`, `{"state":null}`, `[[[[`, "\xff",
		strings.Repeat(`{"state":`, 20),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req, refused := ParseRequest(body, Limits{})
		if refused != nil {
			refused.Render(0, req.ClientToken)
			return
		}
		var doc Document
		fact, refused := Decide(doc, req, Context{At: 1000, By: "device"})
		if refused != nil {
			return
		}
		again, err := ParseFact(fact.Type, fact.Payload())
		if err != nil {
			t.Fatalf("%s: %v", fact.Payload(), err)
		}
		next, reread := doc.Evolve(fact), doc.Evolve(again)
		if a, b := string(next.Get(1, "")), string(reread.Get(1, "")); a != b {
			t.Fatalf("live %s\nread %s", a, b)
		}
		for _, b := range [][]byte{next.Get(1, ""), fact.Accepted(), Documents(doc, next, "t")} {
			if !json.Valid(b) {
				t.Fatalf("not JSON: %s", b)
			}
		}
	})
}
