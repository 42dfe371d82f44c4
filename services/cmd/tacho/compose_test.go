package main

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestCompose holds compose.yaml to the binary: it parses, and every tacho in
// it has a command line and an environment that tacho check finds no problem in.
func TestCompose(t *testing.T) {
	if testing.Short() {
		t.Skip("a binary of its own, made without the race detector: make test runs this")
	}
	text, err := os.ReadFile("../../../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Image       string
			Command     []string
			Environment map[string]string
			DependsOn   []string `yaml:"depends_on"`
			Volumes     []string
		}
		Configs map[string]struct{ Content string }
		Volumes map[string]any
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	tacho := filepath.Join(t.TempDir(), "tacho")
	if out, err := exec.Command("go", "build", "-o", tacho, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := xml.Unmarshal([]byte(file.Configs["query"].Content), new(struct{ XMLName xml.Name })); err != nil {
		t.Errorf("configs: query: %v", err)
	}
	roles := map[string]bool{}
	for name, s := range file.Services {
		for _, v := range s.Volumes {
			volume, _, _ := strings.Cut(v, ":")
			if _, ok := file.Volumes[volume]; !ok {
				t.Errorf("%s: volume %s is not declared", name, volume)
			}
		}
		if !strings.HasPrefix(s.Image, "tachograph") {
			continue
		}
		for _, other := range s.DependsOn {
			if _, ok := file.Services[other]; !ok {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
		}
		if len(s.Command) == 0 || s.Command[0] != "serve" {
			t.Errorf("%s: command %v", name, s.Command)
			continue
		}
		cmd := exec.Command(tacho, append([]string{"check"}, s.Command[1:]...)...)
		for k, v := range s.Environment {
			cmd.Env = append(cmd.Env, k+"="+strings.NewReplacer("${NATS_PASSWORD:?set it in .env}", "n", "${CLICKHOUSE_PASSWORD:?set it in .env}", "c", "${QUERY_PASSWORD:?set it in .env}", "q").Replace(v))
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		for _, want := range []string{"nats-1:4222", "clickhouse:8123", "replicas: 3"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: the environment did not arrive: no %q in\n%s", name, want, out)
			}
		}
		roles[name] = true
	}
	for _, role := range []string{"gateway", "project", "api"} {
		if !roles[role] {
			t.Errorf("no service of the role %s", role)
		}
	}
}
