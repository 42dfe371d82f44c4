package auth

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestAdminToken(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, AdminFile)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := AdminToken(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(text))
	admin, err := AdminToken(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !admin.Check(token) || admin.Check("") || admin.Check(token[1:]) || admin.Check(strings.Repeat("x", 1000)) {
		t.Error("wrong answer")
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}

	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := AdminToken(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("world-readable token: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := AdminToken(dir); err == nil {
		t.Error("an empty token was taken")
	}
}

// TestAnalystToken: it is another than the administrator's, and no key opens nothing.
func TestAnalystToken(t *testing.T) {
	dir := t.TempDir()
	admin, err := AdminToken(dir)
	if err != nil {
		t.Fatal(err)
	}
	analyst, err := AnalystToken(dir)
	if err != nil {
		t.Fatal(err)
	}
	for file, keys := range map[string][2]*Key{AdminFile: {admin, analyst}, AnalystFile: {analyst, admin}} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		token := strings.TrimSpace(string(text))
		if !keys[0].Check(token) || keys[1].Check(token) || (*Key)(nil).Check(token) {
			t.Errorf("%s: wrong answer", file)
		}
	}
}
