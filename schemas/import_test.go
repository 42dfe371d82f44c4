package schemas_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports keeps the module a leaf: nothing of ours, no NATS, no database
// driver, no HTTP.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		if strings.HasPrefix(dep, "github.com/tachograph/tachograph/schemas") {
			continue
		}
		for _, banned := range []string{"github.com/tachograph/", "github.com/nats-io/", "github.com/ClickHouse/", "net/http", "database/sql"} {
			if strings.HasPrefix(dep, banned) {
				t.Errorf("imports %s", dep)
			}
		}
	}
}
