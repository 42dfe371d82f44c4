package loadtest

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports: loadtest judges from outside. Of ours it may know what an event
// and a schema are, and nothing of how they are taken in, kept or projected. The
// built-in schemas are data of the same leaf, and events/aptget is for tests.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-test", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"events": true, "events/aptget": true, "schemas": true, "schemas/vehicle": true}
	for pkg := range strings.Lines(string(out)) {
		pkg, _, _ = strings.Cut(strings.TrimSpace(pkg), " ")
		rest, ours := strings.CutPrefix(pkg, "github.com/tachograph/tachograph/")
		if !ours || strings.HasPrefix(rest, "loadtest") || allowed[rest] {
			continue
		}
		t.Errorf("loadtest imports %s", rest)
	}
}
