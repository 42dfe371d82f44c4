package shadows_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/projections/shadow"
	"github.com/tachograph/tachograph/services/shadows"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what happened")

// TestTranscripts plays testdata/*.txt with devices on a real gateway: a line at
// the margin is what somebody does, the indented lines under it are what each
// device hears, in order. Time stamps stand as T.
//
//	WHO listens to TOPIC       connects first if need be; P/ stands for $aws/things/WHO/shadow/
//	WHO says TOPIC [PAYLOAD]
//	WHO goes                   and leaves its session behind
//	the app asks WHO[/NAME] JSON
//	the app deletes WHO[/NAME]
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
				t.Errorf("the transcript differs (run with -update and review):\n%s", got)
			}
		})
	}
}

// end is a shadow that never is: its rejection comes after all that was to be heard.
const end = "shadow/name/end/get"

var anyStamp = regexp.MustCompile(`"timestamp":\d+`)

func play(t *testing.T, script string) string {
	s := start(t, jetLog(t), shadows.Limits{NamesPerDevice: 2})
	tokens, cars := map[string]string{}, map[string]*car{}
	var order []string
	var out strings.Builder
	for _, line := range strings.SplitAfter(script, "\n") {
		if strings.HasPrefix(line, "    ") {
			continue
		}
		out.WriteString(line)
		words := strings.SplitN(strings.TrimSpace(line), " ", 4)
		if words[0] == "" || words[0] == "#" {
			continue
		}
		long := func(topic string) string { return strings.Replace(topic, "P/", "$aws/things/"+words[0]+"/shadow/", 1) }
		switch {
		case words[0] == "the":
			who, body, _ := strings.Cut(words[3], " ")
			device, name, _ := strings.Cut(who, "/")
			w := shadows.Wish{Device: device, Name: name, By: "operator"}
			if words[2] == "asks" {
				req, refused := shadow.ParseRequest([]byte(body), shadow.Limits{})
				if refused != nil {
					t.Fatal(refused)
				}
				w.Request = req
			}
			_, err := s.Do(t.Context(), w)
			var refused *shadow.Error
			if errors.As(err, &refused) {
				fmt.Fprintf(&out, "    the app is told %d %s\n", refused.Code, refused.Message)
			} else if err != nil {
				t.Fatal(err)
			}
		case words[1] == "listens":
			c := cars[words[0]]
			if c == nil {
				if tokens[words[0]] == "" {
					tokens[words[0]] = s.gw.Add(t, words[0])
					order = append(order, words[0])
				}
				c = s.connect(words[0], tokens[words[0]], false, end+"/rejected")
				cars[words[0]] = c
			}
			c.wait(c.Subscribe(long(words[3]), 1, nil))
		case words[1] == "says":
			cars[words[0]].say(long(words[2]), strings.Join(words[3:], " "))
		case words[1] == "goes":
			cars[words[0]].Disconnect(0)
			delete(cars, words[0])
			for deadline := time.Now().Add(30 * time.Second); s.gw.Connected(words[0]); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s is still there", words[0])
				}
			}
		default:
			t.Fatalf("cannot play %q", line)
		}
		for _, who := range order {
			if c := cars[who]; c != nil {
				for _, h := range c.toEnd() {
					topic := strings.Replace(h.Topic, "$aws/things/"+who+"/shadow/", "P/", 1)
					fmt.Fprintf(&out, "    %s hears %s %s\n", who, topic, anyStamp.ReplaceAllString(h.Raw, `"timestamp":"T"`))
				}
			}
		}
	}
	return out.String()
}

// toEnd returns all that is to be heard now.
func (c *car) toEnd() (all []heard) {
	c.t.Helper()
	c.say(end, "")
	for {
		select {
		case h := <-c.heard:
			if strings.HasSuffix(h.Topic, "name/end/get/rejected") {
				if h.Topic == end+"/rejected" {
					return all
				}
				continue
			}
			all = append(all, h)
		case <-time.After(30 * time.Second):
			c.t.Fatal("never heard the end")
		}
	}
}
