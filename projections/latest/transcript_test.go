package latest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/schemas/vehicle"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what happened")

// TestTranscripts plays testdata/*.txt: a line at the margin is what happens,
// the indented lines under it are what is known then.
//
//	at TIME                   the log's clock
//	schema NAME JSON          a version of a JSON Schema
//	TYPE JSON                 a message of the one device; *N repeats the letter before it
//	state                     every signal: name, value, time, arrival, flag
//	document                  the document as it stands in the bucket
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
		out      strings.Builder
		registry = builtIn(t)
		clock    = noon
		evs      []events.Event
	)
	for _, line := range strings.SplitAfter(script, "\n") {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line)
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		what, rest, _ := strings.Cut(text, " ")
		switch what {
		case "at":
			at, err := time.Parse(time.RFC3339Nano, rest)
			if err != nil {
				t.Fatal(err)
			}
			clock = at
		case "schema":
			name, source, _ := strings.Cut(rest, " ")
			if _, _, err := registry.Add(name, schemas.Source{Format: schemas.FormatJSONSchema, Text: source}); err != nil {
				t.Fatal(err)
			}
		case "state":
			state := foldAll(t, registry, evs)
			for _, m := range state.Messages {
				for _, s := range m.Signals {
					fmt.Fprintf(&out, "    %-22s %s  of %s, arrived %s", m.Type+"."+s.Name, s.Value, s.Time.Format(time.RFC3339Nano), s.Received.Format("15:04:05.999999999"))
					if s.Flag != "" {
						fmt.Fprintf(&out, ", %s", s.Flag)
					}
					if s.Omitted > 0 {
						fmt.Fprintf(&out, ", %d bytes omitted", s.Omitted)
					}
					out.WriteByte('\n')
				}
			}
		case "document":
			state := foldAll(t, registry, evs)
			fmt.Fprintf(&out, "    %s\n", state.AppendJSON(nil))
		default:
			e := events.Event{
				Stream: events.Stream{Kind: events.Telemetry, ID: "car-1"}, Type: what, ID: fmt.Sprintf("id-%d", len(evs)+1),
				Payload: []byte(stretch(rest)), Received: clock, Position: events.Position{Epoch: 1, Seq: uint64(len(evs) + 1)},
			}
			if s, ok := registry.Current(what); ok {
				e.Schema = s.Version()
			}
			evs = append(evs, e)
		}
	}
	return out.String()
}

func foldAll(t testing.TB, registry *schemas.Registry, evs []events.Event) State {
	t.Helper()
	state, err := Fold("car-1", sequence(evs), registry, Rules{})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func sequence(evs []events.Event) func(func(events.Event, error) bool) {
	return func(yield func(events.Event, error) bool) {
		for _, e := range evs {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func builtIn(t testing.TB) *schemas.Registry {
	t.Helper()
	registry := schemas.NewRegistry()
	for _, named := range vehicle.Schemas() {
		if _, _, err := registry.Add(named.Name, named.Source); err != nil {
			t.Fatal(err)
		}
	}
	return registry
}

// stretch makes a*3 of aaa.
func stretch(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '*' || i == 0 {
			b.WriteByte(text[i])
			continue
		}
		end := i + 1
		for end < len(text) && text[end] >= '0' && text[end] <= '9' {
			end++
		}
		n, err := strconv.Atoi(text[i+1 : end])
		if err != nil {
			b.WriteByte('*')
			continue
		}
		b.WriteString(strings.Repeat(text[i-1:i], n-1))
		i = end - 1
	}
	return b.String()
}
