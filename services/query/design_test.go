package query

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tachograph/tachograph/projections/columnar/engine"
)

// TestDesignStatements: what an operator is told to run on an existing
// ClickHouse is read by this one, and the settings in it are settings. It
// cannot be run here: this engine has users by its configuration alone.
func TestDesignStatements(t *testing.T) {
	b := newBench(t, Limits{}, engine.QueryLimits{})
	text, err := os.ReadFile("../api/DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "```sql\n")
	block, _, _ = strings.Cut(block, "```")
	statements := strings.Split(strings.TrimSpace(block), ";")
	if len(statements) != 5 {
		t.Fatalf("%d statements", len(statements)-1)
	}
	for _, sql := range statements[:4] {
		b.text(Statement{Text: "SELECT formatQuery({sql:String})", Format: TSV, Parameters: map[string]string{"sql": sql}})
	}
	settings := regexp.MustCompile(`(\w+) = `).FindAllStringSubmatch(statements[0], -1)
	if len(settings) != 11 {
		t.Errorf("%d settings", len(settings))
	}
	for _, s := range settings {
		if got := b.text(Statement{Text: "SELECT count() FROM system.settings WHERE name = {name:String}", Format: TSV, Parameters: map[string]string{"name": s[1]}}); got != "1\n" {
			t.Errorf("%s is no setting", s[1])
		}
	}
}
