package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tachograph/tachograph/projections/columnar/engine"
)

// harm DIR SQL changes the tables of a node behind its back.
func harm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: harm DIR SQL")
	}
	dir := ts.MkAbs(args[0])
	a, err := (&Place{Data: dir}).addresses()
	ts.Check(err)
	password, err := os.ReadFile(filepath.Join(dir, "clickhouse.writer.password"))
	ts.Check(err)
	req, err := http.NewRequest(http.MethodPost, withScheme(a.ClickHouseHTTP, "http")+"/?mutations_sync=2", strings.NewReader(args[1]))
	ts.Check(err)
	req.SetBasicAuth(engine.WriterUser, strings.TrimSpace(string(password)))
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		ts.Fatalf("%s: %s %v", args[1], answer, err)
	}
}
