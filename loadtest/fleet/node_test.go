package fleet

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func addresses(t *testing.T, dir string, all map[string]any) {
	t.Helper()
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "addresses.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFindRefusesOtherMachines(t *testing.T) {
	dir := t.TempDir()
	if _, err := Find(dir); err == nil || !strings.Contains(err.Error(), "is one running") {
		t.Error(err)
	}
	for addr, good := range map[string]bool{
		"127.0.0.1:1883": true, "[::1]:1883": true, "nats://127.0.0.1:4222": true, "nats://user:secret@127.0.0.1:4222": true, "": true,
		"10.0.0.1:1883": false, "nats://10.0.0.1:4222": false, "example.org:1883": false, "0.0.0.0:1883": false, "::::": false,
	} {
		for _, key := range []string{"mqtt", "http", "nats", "clickhouse_http"} {
			addresses(t, dir, map[string]any{key: addr, "pid": 7})
			if n, err := Find(dir); (err == nil) != good || good && n.PID != 7 {
				t.Errorf("%s %q: %v", key, addr, err)
			}
			if _, err := FindAnywhere(dir); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestTokens: tokens are kept; a device that exists without a known token gets
// a new one; what was got before an error is not lost.
func TestTokens(t *testing.T) {
	dir := t.TempDir()
	var asked []string
	var broken atomic.Bool
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ ID string }
		_ = json.NewDecoder(r.Body).Decode(&body)
		asked = append(asked, r.URL.Path+" "+body.ID)
		switch {
		case r.Header.Get("Authorization") != "Bearer admin" || broken.Load():
			w.WriteHeader(http.StatusInternalServerError)
		case r.URL.Path == "/v1/devices" && body.ID == "old":
			w.WriteHeader(http.StatusConflict)
		case r.URL.Path == "/v1/devices":
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(`{"id":"new","token":"T-` + body.ID + `"}`))
		case r.URL.Path == "/v1/devices/old/token":
			_, _ = w.Write([]byte(`{"token":"T-rotated"}`))
		}
	}))
	defer api.Close()
	if err := os.WriteFile(filepath.Join(dir, "admin"), []byte("admin\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := &Node{Dir: dir, HTTP: strings.TrimPrefix(api.URL, "http://"), AdminTokenFile: filepath.Join(dir, "admin")}
	tokens, err := n.Tokens(t.Context(), []string{"new", "old"})
	if err != nil || tokens["new"] != "T-new" || tokens["old"] != "T-rotated" {
		t.Fatal(tokens, err)
	}
	broken.Store(true)
	if tokens, err = n.Tokens(t.Context(), []string{"old", "new"}); err != nil || tokens["old"] != "T-rotated" {
		t.Fatal("asked again", asked, err)
	}
	if _, err := n.Tokens(t.Context(), []string{"other"}); err == nil {
		t.Fatal("no error")
	}
	info, err := os.Stat(filepath.Join(dir, "fleet", "tokens.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
}
