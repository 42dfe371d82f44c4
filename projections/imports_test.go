package projections

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tachograph/tachograph/"

// TestImports holds the order of the modules: projections stand on events and
// schemas, never on services or loadtest, and a projection never on another.
// catalog and buckets are what others may use, and forgotten for history, which is a log; compact holds what is left of facts
// against the folds of them. The pure deciders know no NATS, no
// driver, no HTTP, no logger.
func TestImports(t *testing.T) {
	own := module + "projections"
	may := map[string][]string{ // of ours, beside the packages below the importing one
		".":         {module + "events"},
		"catalog":   {module + "events", module + "schemas", module + "schemas/vehicle"},
		"buckets":   {module + "events", own},
		"latest":    {module + "events", module + "schemas", own, own + "/catalog", own + "/buckets"},
		"columnar":  {module + "events", module + "schemas", own, own + "/catalog", own + "/history"},
		"shadow":    {module + "events"},
		"command":   {module + "events"},
		"job":       {module + "events"},
		"presence":  {module + "events"},
		"forgotten": {module + "events"},
		"history":   {module + "events", own + "/forgotten"},
		"compact":   {module + "events", own + "/shadow", own + "/command", own + "/presence"},
	}
	pure := []string{"shadow", "command", "job", "presence", "forgotten", "compact"}
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		files++
		top, _, below := strings.Cut(filepath.ToSlash(path), "/")
		if !below {
			top = "."
		}
		allowed, known := may[top]
		if !known {
			t.Errorf("%s: which imports package %s may have is not written down here", path, top)
		}
		test := strings.HasSuffix(path, "_test.go")
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			switch {
			case strings.HasPrefix(name, module+"services"), strings.HasPrefix(name, module+"loadtest"):
				t.Errorf("%s imports %s: services and loadtest stand on projections", path, name)
			case test, slices.Contains(allowed, name), name == own+"/"+top, strings.HasPrefix(name, own+"/"+top+"/"):
			case strings.HasPrefix(name, module):
				t.Errorf("%s imports %s: not among what package %s may use of ours", path, name, top)
			case slices.Contains(pure, top) && (name == "net" || name == "net/http" || name == "log/slog" || strings.Contains(name, "nats") || strings.Contains(name, "clickhouse")):
				t.Errorf("%s imports %s: package %s is pure", path, name, top)
			}
		}
		return nil
	})
	if err != nil || files < 10 {
		t.Fatalf("looked at %d files: %v", files, err)
	}
}
