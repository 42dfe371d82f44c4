package events_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports: events is a leaf. It knows nothing else of ours.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-test", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.Lines(string(out)) {
		if rest, ours := strings.CutPrefix(strings.TrimSpace(pkg), "github.com/tachograph/tachograph/"); ours && !strings.HasPrefix(rest, "events") {
			t.Errorf("events imports %s", rest)
		}
	}
}
