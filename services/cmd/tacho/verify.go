package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/services/api/problem"
)

// VerifyCommand is tacho verify.
type VerifyCommand struct {
	Place
	Limit uint `help:"Differences to name; all are counted (${default})." default:"100" env:"TACHO_VERIFY_LIMIT" placeholder:"N"`
	JSON  bool `help:"Print the report as JSON." name:"json"`
}

// Run audits and shows how far it is. Interrupted, it ends the audit.
func (c *VerifyCommand) Run(ctx context.Context, out *output) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	cl.http.Timeout = 0 // it takes as long as it takes, and says so all the time
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, cl.base+pathOf("v1", "verify")+"?"+url.Values{"limit": {strconv.FormatUint(uint64(c.Limit), 10)}}.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := cl.open(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, answerBytes)
	shown := ""
	for lines.Scan() {
		var line struct {
			Progress *columnar.AuditProgress
			Report   json.RawMessage
			Error    *problem.Problem
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return failed(exitFailed, "are tacho and the node of the same version?", "verify: %w", err)
		}
		switch {
		case line.Error != nil:
			return refused(line.Error)
		case line.Report != nil:
			return c.report(out, line.Report)
		case line.Progress != nil:
			if now := verifyLine(*line.Progress); now != shown {
				out.note("%s", now)
				shown = now
			}
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return failed(exitUnreachable, "start it again", "verify: the node ended the answer before the report")
}

// verifyLine says where an audit is: phase, share, rate, time left.
func verifyLine(p columnar.AuditProgress) string {
	line := fmt.Sprintf("%-8s %d of %d", printable(p.Phase), p.Done, p.Total)
	if p.Total > 0 {
		line += fmt.Sprintf(", %d %%", 100*p.Done/p.Total)
	}
	if p.Rate >= 1 && p.Done < p.Total && p.Phase == "events" {
		line += fmt.Sprintf(", %.0f/s, %s left", p.Rate, time.Duration(float64(p.Total-p.Done)/p.Rate)*time.Second)
	}
	if p.Differences > 0 {
		line += fmt.Sprintf(", %d differences", p.Differences)
	}
	return line
}

func (c *VerifyCommand) report(out *output, raw json.RawMessage) error {
	var r columnar.AuditReport
	if err := json.Unmarshal(raw, &r); err != nil {
		return failed(exitFailed, "are tacho and the node of the same version?", "verify: %w", err)
	}
	if c.JSON {
		if err := out.raw(raw); err != nil {
			return err
		}
	} else if err := verifyTable(out, &r); err != nil {
		return err
	}
	for _, what := range r.Unchecked {
		out.note("not checked: %s", printable(what))
	}
	if r.Equal() {
		return nil
	}
	return failed(exitDiffers, "tacho replay columnar builds the tables anew from the log; what the log has lost stands in tacho.events",
		"verify: %d differences in %s", r.Total, strings.Join(sortedKinds(r.Counts), ", "))
}

func verifyTable(out *output, r *columnar.AuditReport) error {
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TABLE\tROWS\tDIFFERENCES")
	for _, t := range r.Tables {
		fmt.Fprintf(table, "%s\t%d\t%d\n", printable(t.Table), t.Rows, t.Differences)
	}
	if len(r.Differences) > 0 {
		fmt.Fprintln(table, "\nDIFFERENCE\tTABLE\tPOSITION\tDEVICE\tCOUNT\tWHAT")
	}
	for _, d := range r.Differences {
		what := strings.Join(d.Columns, " ")
		if d.Part != "" {
			what = strings.TrimSpace("part " + d.Part + " " + what)
		}
		if d.Detail != "" {
			what = strings.TrimPrefix(what+"; "+d.Detail, "; ")
		}
		if d.Server != "" {
			what = strings.TrimSpace(what + " at " + d.Server)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\n", d.Kind, printable(d.Table), d.Place(), printable(d.Device), d.Count, printable(what))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	var upTo []string
	for _, p := range r.UpTo {
		upTo = append(upTo, p.String())
	}
	line := fmt.Sprintf("%d events up to %s, %d parts and %d buckets of roll-ups: ", r.Events, strings.Join(upTo, " and "), r.Parts, r.Buckets)
	if r.Equal() {
		line += "nothing differs"
	} else {
		line += fmt.Sprintf("%d differences, %d lines shown", r.Total, len(r.Differences))
	}
	if r.Expired > 0 {
		line += fmt.Sprintf("; %d rows are gone as their time has passed", r.Expired)
	}
	if r.Purged > 0 {
		line += fmt.Sprintf("; %d positions were purged from the log", r.Purged)
	}
	if r.Absent > 0 {
		line += fmt.Sprintf("; %d positions were removed or have expired", r.Absent)
	}
	return out.line(line)
}

func sortedKinds(counts map[columnar.DifferenceKind]uint64) (kinds []string) {
	for kind, n := range counts {
		kinds = append(kinds, fmt.Sprintf("%d %s", n, printable(string(kind))))
	}
	slices.Sort(kinds)
	return kinds
}
