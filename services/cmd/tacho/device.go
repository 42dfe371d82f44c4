package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/tachograph/tachograph/events"
)

// DeviceCommand is tacho device.
type DeviceCommand struct {
	Add    DeviceAdd    `cmd:"" help:"Add a device and print its token, once."`
	List   DeviceList   `cmd:"" default:"withargs" help:"List the devices, and whether they are connected."`
	Watch  DeviceWatch  `cmd:"" help:"Print connects and disconnects as they are stored."`
	Remove DeviceRemove `cmd:"" help:"Remove a device; its history stays."`
	Token  DeviceToken  `cmd:"" help:"Print a new token for a device; the old one ends."`
}

type deviceToken struct {
	ID    string `json:"id"`
	Token string `json:"token"`
}

// DeviceAdd is tacho device add.
type DeviceAdd struct {
	Place
	ID   string `arg:"" help:"Id of the device."`
	JSON bool   `help:"Print the API's answer." name:"json"`
}

// Run adds the device. The token alone goes to standard output, so that
// TOKEN=$(tacho device add car-1) holds it.
func (c *DeviceAdd) Run(ctx context.Context, out *output) error {
	return issueToken(ctx, out, &c.Place, c.JSON, "/v1/devices", map[string]string{"id": c.ID},
		"device %s is added; this is its token, it is shown only now:")
}

// DeviceToken is tacho device token.
type DeviceToken struct {
	Place
	ID   string `arg:"" help:"Id of the device."`
	JSON bool   `help:"Print the API's answer." name:"json"`
}

// Run replaces the device's token.
func (c *DeviceToken) Run(ctx context.Context, out *output) error {
	return issueToken(ctx, out, &c.Place, c.JSON, pathOf("v1", "devices", c.ID, "token"), nil,
		"device %s has a new token, the old one has ended; it is shown only now:")
}

func issueToken(ctx context.Context, out *output, place *Place, asJSON bool, path string, in any, note string) error {
	cl, err := place.client()
	if err != nil {
		return err
	}
	var d deviceToken
	answer, err := cl.call(ctx, http.MethodPost, path, in, &d)
	if err != nil {
		return err
	}
	if asJSON {
		return out.raw(answer)
	}
	out.note(note, printable(d.ID))
	return out.line(d.Token)
}

// DeviceList is tacho device list.
type DeviceList struct {
	Place
	Connected bool `help:"Only those that are connected."`
	Watch     bool `help:"Go on with connects and disconnects as they are stored, as tacho device watch does." short:"w"`
	Count     uint `help:"With --watch: end after so many connects and disconnects." short:"n" placeholder:"N"`
	JSON      bool `help:"Print one JSON object a line." name:"json"`
}

// Run lists the devices by id.
func (c *DeviceList) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if err := c.list(ctx, cl, out); err != nil || !c.Watch {
		return err
	}
	// From the node's time of the list on: nothing between it and what follows is missed.
	from := ""
	if at, err := http.ParseTime(cl.answered.Get("Date")); err == nil {
		from = at.UTC().Format(time.RFC3339)
	}
	return (&TailCommand{Place: c.Place, Subject: "tacho.presence.>", From: cmp.Or(from, "now"), JSON: c.JSON, Count: c.Count}).Run(ctx, out)
}

func (c *DeviceList) list(ctx context.Context, cl *client, out *output) error {
	path := "/v1/devices"
	if c.Connected {
		path += "?connected=true"
	}
	if c.JSON {
		return pages(ctx, cl, path, "devices", func(d json.RawMessage) error { return out.raw(d) })
	}
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DEVICE\tADDED\tCONNECTED\tSINCE")
	type device struct {
		ID        string    `json:"id"`
		Added     time.Time `json:"added"`
		Connected bool      `json:"connected"`
		Since     time.Time `json:"since"`
		Reason    string    `json:"reason"`
	}
	if err := pages(ctx, cl, path, "devices", func(d device) error {
		connected, since := "no", ""
		switch {
		case d.Connected:
			connected = "yes"
		case d.Reason != "":
			connected = "no: " + d.Reason
		}
		if !d.Since.IsZero() {
			since = d.Since.UTC().Format(time.RFC3339)
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", printable(d.ID), d.Added.UTC().Format(time.RFC3339), printable(connected), since)
		return err
	}); err != nil {
		return err
	}
	return table.Flush()
}

// DeviceWatch is tacho device watch.
type DeviceWatch struct {
	Place
	Device string `arg:"" optional:"" help:"Id of the device; without it all."`
	Count  uint   `help:"End after so many." short:"n" placeholder:"N"`
	JSON   bool   `help:"Print one JSON object a line." name:"json"`
}

// Run prints presence events as they are stored, until interrupted.
func (c *DeviceWatch) Run(ctx context.Context, out *output) error {
	subject := "tacho.presence.>"
	if c.Device != "" {
		subject = "tacho.presence." + events.Escape(c.Device)
	}
	return (&TailCommand{Place: c.Place, Subject: subject, Count: c.Count, JSON: c.JSON}).Run(ctx, out)
}

// DeviceRemove is tacho device remove.
type DeviceRemove struct {
	Place
	ID string `arg:"" help:"Id of the device."`
}

// Run removes the device.
func (c *DeviceRemove) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	if _, err := cl.call(ctx, http.MethodDelete, pathOf("v1", "devices", c.ID), nil, nil); err != nil {
		return err
	}
	out.note("device %s is removed", printable(c.ID))
	return nil
}
