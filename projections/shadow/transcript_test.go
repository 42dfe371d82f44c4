package shadow

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what happened")

// TestTranscripts plays testdata/*.txt: a line at the margin is what somebody
// does, the indented lines under it are what each party hears.
//
//	at SECONDS                the clock
//	limits BYTES DEPTH        other limits than AWS's
//	WHO updates JSON          an update request; WHO is device or app
//	WHO gets [PAYLOAD]        a get
//	WHO deletes [PAYLOAD]     a delete
//	\xHH in JSON              a raw byte; *N after a letter repeats it: a*70
func TestTranscripts(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	if len(files) == 0 {
		t.Fatal("no transcripts")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("transcript differs (run with -update and review):\n%s", firstDifference(string(want), got))
			}
		})
	}
}

func play(t *testing.T, script string) string {
	var (
		out strings.Builder
		doc Document
		c   = Context{At: 1000, Device: "car-1"}
	)
	hear := func(what string, b []byte) {
		if b != nil {
			fmt.Fprintf(&out, "    %-9s %s\n", what, b)
		}
	}
	for _, line := range strings.SplitAfter(script, "\n") {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line)
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		words := strings.SplitN(text, " ", 3)
		switch {
		case words[0] == "at":
			c.At = 1000 * mustInt(t, words[1])
		case words[0] == "limits":
			c.Limits = Limits{Bytes: int(mustInt(t, words[1])), Depth: int(mustInt(t, words[2]))}
		case words[1] == "updates":
			c.By = words[0]
			req, refused := ParseRequest(expand(words[2]), c.Limits)
			var fact Fact
			if refused == nil {
				fact, refused = Decide(doc, req, c)
			}
			if refused != nil {
				hear("rejected", refused.Render(c.At/1000, req.ClientToken))
				continue
			}
			next := doc.Evolve(reread(t, fact))
			hear("accepted", fact.Accepted())
			hear("delta", next.Delta(c.At/1000, fact.ClientToken))
			hear("documents", Documents(doc, next, fact.ClientToken))
			if !doc.Changes(fact) {
				out.WriteString("    nothing changed\n")
			}
			doc = next
		case words[1] == "gets":
			token := TokenOf(expand(strings.Join(words[2:], "")), c.Limits)
			if !doc.Exists {
				hear("rejected", ErrNoShadow(c.Device).Render(c.At/1000, token))
				continue
			}
			hear("accepted", doc.Get(c.At/1000, token))
		case words[1] == "deletes":
			token := TokenOf(expand(strings.Join(words[2:], "")), c.Limits)
			fact, refused := DecideDelete(doc, nil, token, c)
			if refused != nil {
				hear("rejected", refused.Render(c.At/1000, token))
				continue
			}
			hear("accepted", fact.Deleted())
			doc = doc.Evolve(reread(t, fact))
		default:
			t.Fatalf("cannot play %q", line)
		}
	}
	return out.String()
}

// reread passes the fact through its payload, as the log does.
func reread(t *testing.T, f Fact) Fact {
	t.Helper()
	again, err := ParseFact(f.Type, f.Payload())
	if err != nil {
		t.Fatalf("reread %s: %v", f.Payload(), err)
	}
	return again
}

func expand(text string) []byte {
	var b []byte
	for i := 0; i < len(text); i++ {
		switch {
		case strings.HasPrefix(text[i:], `\x`):
			v, _ := strconv.ParseUint(text[i+2:i+4], 16, 8)
			b = append(b, byte(v))
			i += 3
		case text[i] == '*' && i > 0:
			end := i + 1
			for end < len(text) && text[end] >= '0' && text[end] <= '9' {
				end++
			}
			n, _ := strconv.Atoi(text[i+1 : end])
			b = append(b, strings.Repeat(text[i-1:i], n-1)...)
			i = end - 1
		default:
			b = append(b, text[i])
		}
	}
	return b
}

func mustInt(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range g {
		if i >= len(w) || w[i] != g[i] {
			return fmt.Sprintf("line %d\nwant %s\ngot  %s", i+1, append(w, "(end)")[min(i, len(w))], g[i])
		}
	}
	return "the transcript is shorter"
}
