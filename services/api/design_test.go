package api

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/services/api/problem"
)

// The table of codes in DESIGN.md is the one in the code.
func TestDesignNamesEveryCode(t *testing.T) {
	text, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `") {
			rows++
		}
	}
	n := 0
	for code := range problem.Codes() {
		n++
		after := ""
		if code.RetryAfter() > 0 {
			after = fmt.Sprint(code.RetryAfter())
		}
		if row := fmt.Sprintf("| `%s` | %d | %s |", code, code.Status(), after); !strings.Contains(string(text), row) {
			t.Errorf("DESIGN.md has no row %s", row)
		}
	}
	if rows != n {
		t.Errorf("DESIGN.md has %d rows, the table %d codes", rows, n)
	}
}
