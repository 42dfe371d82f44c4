package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tachograph/tachograph/loadtest/peers"
)

const (
	decodedMessages = 1_000_000
	layoutMessages  = 300_000
)

// log measures what stands between the log and ClickHouse: whole ways, the
// table of raw events in several shapes, the decoders alone.
func (c *benchCommand) log(ctx context.Context, dir string, report *benchReport) (err error) {
	w := peers.Ways{Program: c.Tacho, Dir: filepath.Join(dir, "ways"), Telegraf: c.Telegraf, Messages: c.Log, Count: c.Count,
		Say: func(text string) { fmt.Fprintln(os.Stderr, text) }}
	for _, form := range []peers.Form{peers.JSON, peers.Protobuf} {
		if c.wants(form.String()) {
			w.Forms = append(w.Forms, form)
		}
	}
	if len(w.Forms) > 0 && c.Log > 0 {
		if report.Ways, err = w.Run(ctx, "bench"); err != nil {
			return err
		}
	}
	if c.wants("layouts") && c.Log > 0 {
		w.Dir, w.Messages = filepath.Join(dir, "layouts"), min(c.Log, layoutMessages)
		if report.Layouts, err = w.Layouts(ctx, peers.JSON, "bench"); err != nil {
			return err
		}
	}
	if c.wants("decode") {
		report.Decoding, err = peers.Decode(decodedMessages, c.Count)
	}
	return err
}

func printWays(w io.Writer, ways []peers.Way) {
	form := ""
	for _, way := range ways {
		if way.Form != form {
			form = way.Form
			fmt.Fprintf(w, "\nlog to ClickHouse, %s, us/msg\tmsg/s\tclient\tnats-server\tClickHouse\tsum\t(lowest\thighest)\tof both bare parts\tof tachograph\tlost\tdoubled\t\n", form)
		}
		if !way.Measured {
			fmt.Fprintf(w, "%s: %s\t\t\t\t\t\t\t\t\t\t\t\t\n", way.Name, notMeasured(way))
			continue
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%s\t%d\t%d\t\n", way.Name, way.Rate, way.Client, way.NATS, way.Engine, way.Sum,
			way.Lowest, way.Highest, ratio(way.OfParts), ratio(way.OfNode), way.Lost, way.Doubled)
	}
	for _, way := range ways {
		if way.Measured && way.Settings != "" {
			fmt.Fprintf(w, "%s, %s: %s\n", way.Name, way.Form, way.Settings)
		}
	}
}

func notMeasured(way peers.Way) string {
	if way.Form != peers.JSON.String() {
		return "not measured: JSON only"
	}
	return "not measured: pass --telegraf"
}

func printLayouts(w io.Writer, layouts []peers.Layout) {
	for i, l := range layouts {
		if i == 0 {
			fmt.Fprintf(w, "\ntable of raw events, ClickHouse's us/row\tinsert\t(lowest\thighest)\tof ours\tmerge\tbytes/row\t\n")
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%s\t%.2f\t%.1f\t\n", l.Name, l.Insert, l.Lowest, l.Highest, ratio(l.OfOurs), l.Merge, l.Bytes)
	}
}

func printDecoding(w io.Writer, decoding []peers.Decoding) {
	form := ""
	for _, d := range decoding {
		if d.Form != form {
			form = d.Form
			fmt.Fprintf(w, "\ndecode %s, 8 fields, %d bytes\tns/msg\t(lowest\thighest)\tof ours\tallocations\t\n", form, d.Bytes)
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%s\t%.2f\t\n", d.Decoder, d.Nanoseconds, d.Lowest, d.Highest, ratio(d.OfOurs), d.Allocations)
	}
}
