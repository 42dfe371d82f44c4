package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tachograph/tachograph/events"
)

// ShadowCommand is tacho shadow.
type ShadowCommand struct {
	Get     ShadowGet     `cmd:"" help:"Print a shadow: what is desired, what the device reports, and the difference."`
	Set     ShadowSet     `cmd:"" help:"Change what is desired of a device."`
	Delete  ShadowDelete  `cmd:"" help:"Delete a shadow; its history stays."`
	List    ShadowList    `cmd:"" help:"List the shadows of a device."`
	History ShadowHistory `cmd:"" help:"Print every change of a shadow."`
	Pending ShadowPending `cmd:"" help:"List the devices that have not reported what is desired."`
	Watch   ShadowWatch   `cmd:"" help:"Print changes of shadows as they are stored."`
}

// A shadowPlace names one shadow of one device.
type shadowPlace struct {
	Place
	Device string `arg:"" help:"Id of the device."`
	Name   string `help:"Name of a named shadow; without it the classic one." env:"TACHO_SHADOW_NAME" placeholder:"NAME"`
}

func (p *shadowPlace) path(query url.Values, more ...string) string {
	if query == nil {
		query = url.Values{}
	}
	if p.Name != "" {
		query.Set("name", p.Name)
	}
	path := pathOf(append([]string{"v1", "devices", p.Device, "shadow"}, more...)...)
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path
}

// ShadowGet is tacho shadow get.
type ShadowGet struct {
	shadowPlace
	At   string `help:"As it was then: RFC 3339 or epoch milliseconds, by arrival." env:"TACHO_SHADOW_AT" placeholder:"TIME"`
	JSON bool   `help:"Print the API's answer." name:"json"`
}

// Run prints the document.
func (c *ShadowGet) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.At != "" {
		query.Set("at", c.At)
	}
	var doc struct {
		State   json.RawMessage
		Version uint64
	}
	answer, err := cl.call(ctx, http.MethodGet, c.path(query), nil, &doc)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	out.note("shadow of %s, version %d", printable(c.Device), doc.Version)
	var b bytes.Buffer
	if err := json.Indent(&b, doc.State, "", "  "); err != nil {
		return err
	}
	return out.line(b.String())
}

// ShadowSet is tacho shadow set.
type ShadowSet struct {
	shadowPlace
	Change  []string `arg:"" help:"What to change: one JSON object, or KEY=VALUE with a JSON value (or text) each; a.b=1 goes deep, a=null deletes."`
	Version *uint64  `help:"Only if the shadow has this version." env:"TACHO_SHADOW_VERSION" placeholder:"N"`
	JSON    bool     `help:"Print the API's answer." name:"json"`
}

// Run changes the desired state.
func (c *ShadowSet) Run(ctx context.Context, out *output) error {
	desired, err := changeOf("change shadow", c.Change)
	if err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	request := struct {
		State struct {
			Desired json.RawMessage `json:"desired"`
		} `json:"state"`
		Version *uint64 `json:"version,omitempty"`
	}{Version: c.Version}
	request.State.Desired = desired
	var doc struct{ Version uint64 }
	answer, err := cl.call(ctx, http.MethodPost, c.path(nil), request, &doc)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	if cl.answered.Get("Tacho-Changed") == "false" {
		out.note("shadow of %s says so already, at version %d; nothing was changed", printable(c.Device), doc.Version)
		return nil
	}
	out.note("shadow of %s is at version %d; tacho shadow pending shows whether the device has followed", printable(c.Device), doc.Version)
	return nil
}

// changeOf makes a JSON object of the command line's words. what says what for.
func changeOf(what string, words []string) (json.RawMessage, error) {
	const remedy = `such as locked=true, climate.target=21.5 or '{"locked":true}'`
	if len(words) == 1 && strings.HasPrefix(strings.TrimSpace(words[0]), "{") {
		if !json.Valid([]byte(words[0])) {
			return nil, failed(exitUsage, remedy, "%s: %s is not JSON", what, printable(words[0]))
		}
		return json.RawMessage(words[0]), nil
	}
	root := map[string]any{}
	for _, word := range words {
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return nil, failed(exitUsage, remedy, "%s: %s is not KEY=VALUE", what, printable(word))
		}
		at := root
		keys := strings.Split(key, ".")
		if slices.Contains(keys, "") {
			return nil, failed(exitUsage, remedy, "%s: %s has an empty name between its dots", what, printable(word))
		}
		last := keys[len(keys)-1]
		for _, k := range keys[:len(keys)-1] {
			if at[k] == nil {
				at[k] = map[string]any{}
			}
			inner, ok := at[k].(map[string]any)
			if !ok {
				return nil, failed(exitUsage, remedy, "%s: %s goes into what another word gives a value", what, printable(word))
			}
			at = inner
		}
		if _, twice := at[last]; twice {
			return nil, failed(exitUsage, remedy, "%s: %s is given twice", what, printable(key))
		}
		if json.Valid([]byte(value)) {
			at[last] = json.RawMessage(value)
		} else {
			at[last] = value
		}
	}
	return json.Marshal(root)
}

// ShadowDelete is tacho shadow delete.
type ShadowDelete struct{ shadowPlace }

// Run deletes the shadow.
func (c *ShadowDelete) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if _, err := cl.call(ctx, http.MethodDelete, c.path(nil), nil, nil); err != nil {
		return err
	}
	out.note("shadow of %s is deleted", printable(c.Device))
	return nil
}

// ShadowList is tacho shadow list.
type ShadowList struct {
	Place
	Device string `arg:"" help:"Id of the device."`
	JSON   bool   `help:"Print the API's answer." name:"json"`
}

// Run lists the shadows there are.
func (c *ShadowList) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var list struct {
		Classic bool
		Named   []string
	}
	answer, err := cl.call(ctx, http.MethodGet, pathOf("v1", "devices", c.Device, "shadows"), nil, &list)
	if err != nil {
		return err
	}
	if c.JSON {
		return out.raw(answer)
	}
	if list.Classic {
		if err := out.line("(classic)"); err != nil {
			return err
		}
	}
	for _, name := range list.Named {
		if err := out.line(printable(name)); err != nil {
			return err
		}
	}
	return nil
}

// ShadowHistory is tacho shadow history.
type ShadowHistory struct {
	shadowPlace
	JSON bool `help:"Print one JSON object a line." name:"json"`
}

// Run prints the changes, oldest first.
func (c *ShadowHistory) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	if !c.JSON {
		fmt.Fprintln(table, "VERSION\tRECEIVED\tBY\tCHANGE\tDESIRED\tREPORTED")
	}
	query := url.Values{"limit": {"1000"}}
	for more := true; more; {
		var page struct {
			Changes []json.RawMessage
			More    bool
		}
		if _, err := cl.call(ctx, http.MethodGet, c.path(query, "history"), nil, &page); err != nil {
			return err
		}
		for _, raw := range page.Changes {
			var change struct {
				Type     string
				Received time.Time
				Position events.Position
				Fact     struct {
					Version           uint64
					By                string
					Desired, Reported json.RawMessage
				}
			}
			if err := json.Unmarshal(raw, &change); err != nil {
				return failed(exitFailed, "are tacho and the node of the same version?", "read history of shadow: %w", err)
			}
			query.Set("after", change.Position.String())
			if c.JSON {
				if err := out.raw(raw); err != nil {
					return err
				}
				continue
			}
			f := change.Fact
			fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\n", f.Version, change.Received.UTC().Format(time.RFC3339), printable(f.By), change.Type,
				compact(f.Desired), compact(f.Reported))
		}
		more = page.More
	}
	return table.Flush()
}

// ShadowPending is tacho shadow pending.
type ShadowPending struct {
	Place
	JSON bool `help:"Print one JSON object a line." name:"json"`
}

// Run lists who is not as desired, since when and why.
func (c *ShadowPending) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if c.JSON {
		return pages(ctx, cl, "/v1/shadows/pending", "pending", func(p json.RawMessage) error { return out.raw(p) })
	}
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DEVICE\tSHADOW\tVERSION\tSINCE\tWHY")
	type pending struct {
		Device, Name, Why string
		Version           uint64
		Since             time.Time
		Rejected          *struct{ Message string }
	}
	if err := pages(ctx, cl, "/v1/shadows/pending", "pending", func(p pending) error {
		if p.Rejected != nil {
			p.Why += ": " + p.Rejected.Message
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\n", printable(p.Device), printable(p.Name), p.Version, p.Since.UTC().Format(time.RFC3339), printable(p.Why))
		return err
	}); err != nil {
		return err
	}
	return table.Flush()
}

// ShadowWatch is tacho shadow watch.
type ShadowWatch struct {
	Place
	Device string `arg:"" optional:"" help:"Id of the device; without it all."`
	Name   string `help:"Name of a named shadow; without it the classic one." env:"TACHO_SHADOW_NAME" placeholder:"NAME"`
	Count  uint   `help:"End after so many changes." short:"n" placeholder:"N"`
	JSON   bool   `help:"Print one JSON object a line." name:"json"`
}

// Run prints changes as they are stored, until interrupted.
func (c *ShadowWatch) Run(ctx context.Context, out *output) error {
	subject := "tacho.shadow.>"
	if c.Device != "" {
		subject = "tacho.shadow." + events.Escape(c.Device)
		if c.Name != "" {
			subject += "." + events.Escape(c.Name)
		}
	}
	return (&TailCommand{Place: c.Place, Subject: subject, Count: c.Count, JSON: c.JSON}).Run(ctx, out)
}
