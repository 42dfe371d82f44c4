package command

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what happened")

// TestTranscripts plays testdata/*.txt. A line at the margin is "TIME WHO does
// something"; indented under it stand the fact that it became, or the refusal,
// and the state after it. Times are milliseconds.
//
//	T api queues POLICY DEADLINE ANSWER_BY [dry] [digest=D]
//	T gateway sends | gateway delivers N | gateway unsends N | gateway abandons
//	T device says STATE [RESULT]
//	T api cancels
//	T time passes
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
				t.Errorf("transcript differs (run with -update and review):\n%s", got)
			}
		})
	}
}

func play(t *testing.T, script string) string {
	var (
		out strings.Builder
		c   Command
	)
	for _, line := range strings.SplitAfter(script, "\n") {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line)
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "# new command") {
			c = Command{}
		}
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		w := strings.Fields(text)
		at, err := strconv.ParseInt(w[0], 10, 64)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		number := func(i int) int64 {
			n, err := strconv.ParseInt(w[i], 10, 64)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			return n
		}
		var f Fact
		switch w[1] + " " + w[2] {
		case "api queues":
			o := Order{ID: "c1", Device: "car-1", Name: "unlock", Policy: Policy(w[3]), Deadline: number(4), AnswerBy: number(5)}
			for _, opt := range w[6:] {
				o.DryRun = o.DryRun || opt == "dry"
				o.Digest = strings.TrimPrefix(opt, "digest=")
			}
			f, err = c.Queue(o, at, "api:ops")
		case "gateway sends":
			f, err = c.Send(at)
		case "gateway delivers":
			f, err = c.Deliver(int(number(3)), at)
		case "gateway unsends":
			f, err = c.Unsend(int(number(3)), at, "device is not connected")
		case "gateway abandons":
			f, err = c.Abandon(at, "not connected")
		case "device says":
			f, err = c.Answer(Answer{State: State(w[3]), Result: json.RawMessage(strings.Join(w[4:], " "))}, at)
		case "api cancels":
			f, err = c.Cancel(at, "api:ops", "changed my mind")
		case "time passes":
			f, _ = c.Pass(at)
		default:
			t.Fatalf("cannot play %q", text)
		}
		if err != nil {
			fmt.Fprintf(&out, "    refused: %v\n", err)
		}
		if f.Type != "" {
			if len(f.Result) == 0 {
				f.Result = nil
			}
			payload, err := f.Payload()
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseFact(payload)
			if err != nil {
				t.Fatal(err)
			}
			c.Evolve(again)
			fmt.Fprintf(&out, "    fact: %s\n", payload)
		} else if err == nil {
			out.WriteString("    no news\n")
		}
		fmt.Fprintf(&out, "    %s", c.State)
		if c.Late {
			out.WriteString(", late")
		}
		if due := c.Due(); due != 0 {
			fmt.Fprintf(&out, ", due at %d", due)
		}
		out.WriteString("\n")
	}
	return out.String()
}
