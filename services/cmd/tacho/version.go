package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tachograph/tachograph/projections/columnar/engine"
)

// VersionCommand is tacho version.
type VersionCommand struct {
	JSON bool `help:"Print one JSON object." name:"json"`
}

type versions struct {
	Tacho      string `json:"tacho"`
	Commit     string `json:"commit,omitempty"`
	Modified   bool   `json:"modified,omitempty"`
	Go         string `json:"go"`
	Platform   string `json:"platform"`
	NATSServer string `json:"nats_server"`
	ClickHouse string `json:"clickhouse"`
}

// Run prints what this binary is made of.
func (c *VersionCommand) Run(out *output) error {
	v := readVersions()
	if c.JSON {
		line, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return out.raw(line)
	}
	table := tabwriter.NewWriter(out.w, 0, 0, 2, ' ', 0)
	commit := v.Commit
	if commit == "" {
		commit = "unknown"
	}
	if v.Modified {
		commit += " (modified)"
	}
	fmt.Fprintf(table, "tacho\t%s\ncommit\t%s\ngo\t%s %s\nnats-server\t%s\nclickhouse\t%s\n",
		v.Tacho, commit, v.Go, v.Platform, v.NATSServer, v.ClickHouse)
	return table.Flush()
}

func readVersions() versions {
	v := versions{
		Tacho: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		NATSServer: server.VERSION, ClickHouse: engine.PackageVersion,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Tacho = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
