package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// LettersCommand is tacho dead-letters.
type LettersCommand struct {
	List   LettersList   `cmd:"" help:"List them."`
	Show   LettersShow   `cmd:"" help:"Print one with its bytes."`
	Replay LettersReplay `cmd:"" help:"Read them again by the present schema; those that can be read now come back, once."`
	Drop   LettersDrop   `cmd:"" help:"Mark them as not worth a further look."`
}

// LetterFilter selects dead letters.
type LetterFilter struct {
	Device string `help:"Of this device." env:"TACHO_LETTERS_DEVICE" placeholder:"DEVICE"`
	Type   string `help:"Of this message type." env:"TACHO_LETTERS_TYPE" placeholder:"TYPE"`
	Reason string `help:"With this reason, such as wrong_type." env:"TACHO_LETTERS_REASON" placeholder:"CODE"`
	From   string `help:"Received at this time or later; RFC 3339." env:"TACHO_LETTERS_FROM" placeholder:"TIME"`
	To     string `help:"Received before this time." env:"TACHO_LETTERS_TO" placeholder:"TIME"`
	Limit  uint   `help:"At most so many; 0 is all." env:"TACHO_LETTERS_LIMIT" placeholder:"N"`
}

func (f LetterFilter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"device": f.Device, "type": f.Type, "reason": f.Reason, "from": f.From, "to": f.To} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

// pages calls a path until there is no next page or the limit is reached; each
// gets an answer and returns how many letters it was about.
func (f LetterFilter) pages(ctx context.Context, cl *client, method, path string, q url.Values, most int, each func(answer []byte) (n int, next string, err error)) error {
	for left := int(min(f.Limit, 1<<31-1)); ; {
		size := most
		if f.Limit > 0 {
			size = min(size, left)
		}
		q.Set("limit", strconv.Itoa(size))
		answer, err := cl.call(ctx, method, path+"?"+q.Encode(), nil, nil)
		if err != nil {
			return err
		}
		n, next, err := each(answer)
		if left -= n; err != nil || next == "" || f.Limit > 0 && left <= 0 {
			return err
		}
		q.Set("cursor", next)
	}
}

// A letter is one of GET /v1/dead-letters.
type letter struct {
	Letter, Device, Type, Reason, Detail, State, Note string
	Schema                                            uint32
	Size                                              uint64
	Received                                          time.Time
	ReplayedBy                                        uint32 `json:"replayed_by"`
	Text                                              *string
	DataBase64                                        []byte `json:"data_base64"`
}

// LettersList is tacho dead-letters list.
type LettersList struct {
	Place
	LetterFilter
	State string `help:"parked, replayed, dropped or all." enum:"parked,replayed,dropped,all" default:"parked" env:"TACHO_LETTERS_STATE"`
	JSON  bool   `help:"Print one JSON object a line." name:"json"`
}

// Run lists.
func (c *LettersList) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	q := c.query()
	q.Set("state", c.State)
	w := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	if !c.JSON {
		fmt.Fprintln(w, "LETTER\tRECEIVED\tDEVICE\tTYPE\tSTATE\tREASON\tDETAIL")
	}
	err = c.pages(ctx, cl, http.MethodGet, "/v1/dead-letters", q, 1000, func(answer []byte) (int, string, error) {
		var page struct {
			Letters []json.RawMessage `json:"dead_letters"`
			Next    string
		}
		if err := json.Unmarshal(answer, &page); err != nil {
			return 0, "", fmt.Errorf("list dead letters: %w", err)
		}
		for _, raw := range page.Letters {
			var l letter
			if err := json.Unmarshal(raw, &l); err != nil {
				return 0, "", fmt.Errorf("list dead letters: %w", err)
			}
			if c.JSON {
				if err := out.raw(raw); err != nil {
					return 0, "", err
				}
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Letter, l.Received.Format(time.RFC3339), printable(l.Device), printable(l.Type), l.State, printable(l.Reason), printable(l.Detail))
		}
		return len(page.Letters), page.Next, nil
	})
	if err != nil {
		return err
	}
	return w.Flush()
}

// LettersShow is tacho dead-letters show.
type LettersShow struct {
	Place
	Letter string `arg:"" help:"Name of the letter, such as 1.0.42-0."`
	JSON   bool   `help:"Print the API's answer." name:"json"`
}

// Run shows one.
func (c *LettersShow) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var l letter
	answer, err := cl.call(ctx, http.MethodGet, pathOf("v1", "dead-letters", c.Letter), nil, &l)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	w := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	state := l.State
	if l.ReplayedBy > 0 {
		state += fmt.Sprintf(" by version %d", l.ReplayedBy)
	}
	for _, row := range [][2]string{
		{"device", l.Device}, {"type", l.Type}, {"received", l.Received.Format(time.RFC3339Nano)}, {"schema", fmt.Sprint(l.Schema)},
		{"state", state}, {"note", l.Note}, {"reason", l.Reason}, {"detail", l.Detail}, {"bytes", fmt.Sprint(l.Size)},
	} {
		if row[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", row[0], printable(row[1]))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if l.Text != nil {
		return out.line(printable(*l.Text))
	}
	return out.line(fmt.Sprintf("%x", l.DataBase64))
}

// letterWork is what replay and drop share.
type letterWork struct {
	Place
	LetterFilter
	Letter string `arg:"" optional:"" help:"That one; without it all parked ones that the flags select."`
	DryRun bool   `help:"Tell what would happen, and do nothing."`
	JSON   bool   `help:"Print one JSON object a letter and line." name:"json"`
}

// LettersReplay is tacho dead-letters replay.
type LettersReplay struct{ letterWork }

// Run replays.
func (c *LettersReplay) Run(ctx context.Context, out *output) error {
	return c.work(ctx, out, "replay", c.query())
}

// LettersDrop is tacho dead-letters drop.
type LettersDrop struct {
	letterWork
	Note string `help:"Why." env:"TACHO_LETTERS_NOTE" placeholder:"TEXT"`
	All  bool   `help:"Every parked letter there is." env:"TACHO_LETTERS_DROP_ALL"`
}

// Run drops.
func (c *LettersDrop) Run(ctx context.Context, out *output) error {
	q := c.query()
	if len(q) == 0 && c.Letter == "" && !c.All {
		return failed(exitUsage, "name a letter, select some by --device, --type, --reason, --from or --to, or say --all", "drop dead letters: none are selected")
	}
	if c.All {
		q.Set("all", "true")
	}
	if c.Note != "" {
		q.Set("note", c.Note)
	}
	return c.work(ctx, out, "drop", q)
}

func (c *letterWork) work(ctx context.Context, out *output, verb string, q url.Values) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	cl.http.Timeout = 6 * time.Minute // the node gives up before
	if c.Letter != "" {
		q.Set("letter", c.Letter)
	}
	if c.DryRun {
		q.Set("dry_run", "true")
	}
	counts := map[string]int{}
	w := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	err = c.pages(ctx, cl, http.MethodPost, "/v1/dead-letters/"+verb, q, 100, func(answer []byte) (int, string, error) {
		var page struct {
			Results []json.RawMessage
			Next    string
		}
		if err := json.Unmarshal(answer, &page); err != nil {
			return 0, "", fmt.Errorf("%s dead letters: %w", verb, err)
		}
		for _, raw := range page.Results {
			var r struct {
				Letter, Device, Type, Outcome, Detail string
				Schema                                uint32
			}
			if err := json.Unmarshal(raw, &r); err != nil {
				return 0, "", fmt.Errorf("%s dead letters: %w", verb, err)
			}
			counts[r.Outcome]++
			if c.JSON {
				if err := out.raw(raw); err != nil {
					return 0, "", err
				}
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Letter, printable(r.Device), printable(r.Type), r.Outcome, printable(r.Detail))
		}
		return len(page.Results), page.Next, w.Flush()
	})
	if err != nil {
		return err
	}
	var sums []string
	for _, outcome := range slices.Sorted(maps.Keys(counts)) {
		sums = append(sums, fmt.Sprintf("%d %s", counts[outcome], outcome))
	}
	if len(sums) == 0 {
		sums = []string{"no dead letters are selected"}
	}
	out.note("%s", strings.Join(sums, ", "))
	return nil
}
