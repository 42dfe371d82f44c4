package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestValidateTellsEverythingAtOnce(t *testing.T) {
	c := Config{
		Data: "", Host: "nowhere", Ports: "fixed", MQTTPort: 1883, HTTPPort: 1883, NATSPort: 0, ClickHouseNativePort: 9000, ClickHouseHTTPPort: 70000,
		NATS: "http://x", ClickHouse: []string{"x"}, Replicas: 9, Durability: "maybe", Partitions: 300, LogBytes: -1, BatchAge: 1, MaxPayload: 1, TLSCert: "nothing.pem",
	}
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, flag := range []string{"data", "role", "host", "http-port", "nats-port", "clickhouse-http-port", "nats", "clickhouse", "replicas",
		"durability", "partitions", "log-bytes", "batch-age", "max-payload", "max-connections", "tls-cert"} {
		if !strings.Contains(err.Error(), "--"+flag+":") {
			t.Errorf("nothing about --%s in:\n%v", flag, err)
		}
	}
}

func TestFolderInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	f, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockFolder(dir)
	if err == nil || !strings.Contains(err.Error(), "in use by process") || !strings.Contains(err.Error(), "--data") {
		t.Fatalf("want who and what to do, got %v", err)
	}
	f.Close()
	again, err := lockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	a, err := secret(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := secret(path)
	if err != nil || a != b || len(a) < 24 {
		t.Fatalf("%q, %q, %v", a, b, err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := secret(path); err != nil || len(c) < 24 || c == a {
		t.Fatalf("after an empty file: %q, %v", c, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
}

func TestShardsAreValidated(t *testing.T) {
	const one, two = "http://a:8123", "http://b:8123"
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--clickhouse", one}, ""},
		{[]string{"--clickhouse", one, "--clickhouse", two, "--clickhouse-cluster", "fleet", "--partitions", "2"}, ""},
		{[]string{"--clickhouse", one + "," + two, "--partitions", "2"}, "--clickhouse-cluster:"},
		{[]string{"--clickhouse", one + "," + two, "--clickhouse-cluster", "fleet"}, "2 shards for 1 partitions"},
		{[]string{"--clickhouse", one + "," + one, "--clickhouse-cluster", "fleet", "--partitions", "2"}, "a:8123 is named twice"},
		{[]string{"--clickhouse", one + ",", "--clickhouse-cluster", "fleet"}, "goes with several"},
		{[]string{"--clickhouse", one + ",b", "--clickhouse-cluster", "fleet", "--partitions", "2"}, "want a URL"},
	} {
		parser, err := kong.New(new(Config))
		if err != nil {
			t.Fatal(err)
		}
		_, err = parser.Parse(c.flags) // which validates
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.flags, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q: %v, want %q", c.flags, err, c.want)
		}
	}
}
