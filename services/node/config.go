// Package node is where Tachograph's parts become a program: it starts them in
// order, lets embedded servers stand in for external ones, and stops all in the
// reverse order. Laptop and cluster differ here and nowhere else.
package node

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/tachograph/tachograph/events/jetlog"
)

// Config is all that can be set. Its tags are the flags of tacho serve; each
// is also an environment variable TACHO_... and a key of the YAML file.
type Config struct {
	Data string   `help:"Folder for everything the node keeps." default:"data" type:"path" placeholder:"DIR"`
	Role []string `help:"What this process runs: gateway, project, api." enum:"gateway,project,api" default:"gateway,project,api" placeholder:"ROLE"`

	Host           string `help:"Address of MQTT and HTTP. Anything but loopback should have --tls-cert." default:"127.0.0.1" placeholder:"HOST"`
	NATSHost       string `name:"nats-host" help:"Address of the embedded NATS, which has no TLS." default:"127.0.0.1" placeholder:"HOST"`
	ClickHouseHost string `name:"clickhouse-host" help:"Address of the embedded ClickHouse, which has no TLS." default:"127.0.0.1" placeholder:"HOST"`
	Ports          string `help:"'fixed' for the ports below, 'auto' for free ones, which addresses.json names." enum:"fixed,auto" default:"fixed"`

	MQTTPort             int `name:"mqtt-port" help:"MQTT 3.1.1 and 5." default:"1883" placeholder:"PORT"`
	HTTPPort             int `name:"http-port" help:"HTTP API." default:"8080" placeholder:"PORT"`
	NATSPort             int `name:"nats-port" help:"Embedded NATS." default:"4222" placeholder:"PORT"`
	ClickHouseNativePort int `name:"clickhouse-native-port" help:"Embedded ClickHouse, native protocol." default:"9000" placeholder:"PORT"`
	ClickHouseHTTPPort   int `name:"clickhouse-http-port" help:"Embedded ClickHouse, HTTP." default:"8123" placeholder:"PORT"`

	NATS              string   `name:"nats" help:"URL of an existing NATS cluster, nats://user:password@host:4222, instead of the embedded one." placeholder:"URL"`
	NATSCreds         string   `name:"nats-creds" help:"Credentials file (.creds) for --nats, instead of a password in the URL." type:"path" placeholder:"FILE"`
	ClickHouse        []string `name:"clickhouse" help:"URL of an existing ClickHouse, http://user:password@host:8123, instead of the embedded one. Several are shards, of which each has some partitions for ever: all in the same order at every start." placeholder:"URL"`
	ClickHouseCluster string   `name:"clickhouse-cluster" help:"What several shards are called in their remote_servers." placeholder:"NAME"`
	Database          string   `help:"ClickHouse database." default:"tacho" placeholder:"NAME"`
	QueryConfig
	Replicas int `help:"Replicas of every stream; more than 1 needs a NATS cluster." default:"1" placeholder:"N"`

	Durability string `help:"What an acknowledged message survives: disk (power failure), os (a killed process), fast (a clean stop)." enum:"disk,os,fast" default:"disk"`
	Partitions int    `help:"Partitions of the telemetry log. Fixed when the log is created; tacho split makes more of them." default:"1" placeholder:"N"`
	LogBytes   int64  `name:"log-bytes" help:"Most bytes of one stream; a full one refuses. 0: no limit but --log-reserve." default:"0" placeholder:"BYTES"`
	LogReserve int64  `name:"log-reserve" help:"Bytes of the disk that are left free: with less, messages are refused until there is room." default:"1073741824" placeholder:"BYTES"`

	BatchAge         time.Duration `name:"batch-age" help:"How old a message may be before it is inserted into ClickHouse, while ClickHouse keeps up." default:"400ms" placeholder:"TIME"`
	RollUpEvery      time.Duration `name:"roll-up-every" help:"How old a sample may be before it is in the roll-ups, while ClickHouse keeps up." default:"5s" placeholder:"TIME"`
	OnPanic          string        `name:"on-panic" help:"What a projection does at an event at which its code breaks down: stop that partition, or park the event and go on." enum:"stop,park" default:"stop"`
	ClickHouseMemory int64         `name:"clickhouse-memory" help:"Memory of the embedded ClickHouse, bytes. 0: half of the machine's, 4 GiB at most." default:"0" placeholder:"BYTES"`

	MaxConnections   int           `name:"max-connections" help:"MQTT connections." default:"100000" placeholder:"N"`
	MaxCommands      int           `name:"max-commands" help:"Commands of one device without a final state." default:"1000" placeholder:"N"`
	CommandsInFlight int           `name:"commands-in-flight" help:"Commands of one device that are sent and not acknowledged." default:"8" placeholder:"N"`
	PresenceGrace    time.Duration `name:"presence-grace" help:"How long a device is without a connection before services hear that it is offline." default:"30s" placeholder:"TIME"`
	MaxPayload       int           `name:"max-payload" help:"Largest message, bytes." default:"1048576" placeholder:"BYTES"`

	KeepSamples time.Duration `name:"keep-samples" help:"How long ClickHouse keeps samples after their arrival, such as 2160h; 0 is for ever." default:"0s" placeholder:"DURATION"`
	KeepEvents  time.Duration `name:"keep-events" help:"How long it keeps the raw events; 0 is for ever." default:"0s" placeholder:"DURATION"`
	Keep1m      time.Duration `name:"keep-1m" help:"How long it keeps roll-ups by the minute; 0 is for ever." default:"0s" placeholder:"DURATION"`
	Keep1h      time.Duration `name:"keep-1h" help:"How long it keeps roll-ups by the hour; 0 is for ever." default:"0s" placeholder:"DURATION"`

	KeepLog time.Duration `name:"keep-log" help:"How long the log keeps telemetry, such as 720h; what ClickHouse or a projection does not have yet stays longer. 0 is for ever." default:"0s" placeholder:"DURATION"`

	KeepControl time.Duration `name:"keep-control" help:"How long the log keeps control facts, and idempotency keys of commands that have ended, such as 720h; then they are compacted to what is needed of them, and ClickHouse has the rest. 0 is for ever." default:"0s" placeholder:"DURATION"`

	SnapshotBytes int64 `name:"snapshot-bytes" help:"Most bytes of states kept for looks at the past; the oldest go, and looks there take longer." default:"4294967296" placeholder:"BYTES"`

	ShadowBytes int `name:"shadow-bytes" help:"Largest shadow document, bytes of desired and reported together; AWS's is ${default}." default:"8192" placeholder:"BYTES"`
	ShadowDepth int `name:"shadow-depth" help:"Levels of nesting below desired and reported; AWS's is ${default}." default:"6" placeholder:"N"`

	TLSCert string `name:"tls-cert" help:"Certificate of the MQTT and HTTP listeners, PEM." type:"path" placeholder:"FILE"`
	TLSKey  string `name:"tls-key" help:"Its key, PEM." type:"path" placeholder:"FILE"`

	// For tests; see retention.ForgetConfig and CompactConfig, jetlog.Config.
	fault  func(step string) error
	least  uint64
	settle time.Duration
}

var databaseName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Has tells whether the process runs a role.
func (c Config) Has(role string) bool { return slices.Contains(c.Role, role) }

// Validate returns every problem at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: "+format, append([]any{flag}, args...)...))
	}
	if c.Data == "" {
		bad("data", "a folder is needed")
	}
	if len(c.Role) == 0 {
		bad("role", "at least one is needed")
	}
	for _, h := range []struct{ flag, host string }{{"host", c.Host}, {"nats-host", c.NATSHost}, {"clickhouse-host", c.ClickHouseHost}} {
		if net.ParseIP(h.host) == nil && h.host != "localhost" {
			bad(h.flag, "%q is not an IP address", h.host)
		}
	}
	if c.Ports == "fixed" {
		used := map[int]string{}
		for _, p := range []struct {
			flag string
			n    int
		}{
			{"mqtt-port", c.MQTTPort}, {"http-port", c.HTTPPort}, {"nats-port", c.NATSPort},
			{"clickhouse-native-port", c.ClickHouseNativePort}, {"clickhouse-http-port", c.ClickHouseHTTPPort},
		} {
			if p.n < 1 || p.n > 65535 {
				bad(p.flag, "%d is not a port", p.n)
			} else if other, ok := used[p.n]; ok {
				bad(p.flag, "%d is --%s already", p.n, other)
			}
			used[p.n] = p.flag
		}
	}
	checkURL := func(flag, text string, schemes ...string) {
		if text == "" {
			return
		}
		if u, err := url.Parse(text); err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
			bad(flag, "want a URL such as %s://host:port", schemes[0])
		}
	}
	checkURL("nats", c.NATS, "nats", "tls")
	if c.NATSCreds != "" && c.NATS == "" {
		bad("nats-creds", "goes with --nats")
	}
	c.validateShards(checkURL, bad)
	checkURL("clickhouse-query", c.ClickHouseQuery, "http", "https")
	c.QueryConfig.validate(c.embedsClickHouse(), bad)
	if !databaseName.MatchString(c.Database) {
		bad("database", "%q: letters, digits and _ are possible", c.Database)
	}
	if _, err := jetlog.ParseDurability(c.Durability); err != nil {
		bad("durability", "%v", err)
	}
	if c.Partitions < 1 || c.Partitions > 256 {
		bad("partitions", "%d; 1 to 256 are possible", c.Partitions)
	}
	if c.Replicas < 1 || c.Replicas > 5 {
		bad("replicas", "%d; 1 to 5 are possible", c.Replicas)
	} else if c.Replicas > 1 && c.NATS == "" {
		bad("replicas", "%d need an existing cluster, --nats", c.Replicas)
	}
	if c.Replicas > 1 && c.Durability == "fast" {
		bad("durability", "fast works without replicas only")
	}
	if c.LogBytes < 0 {
		bad("log-bytes", "%d is negative", c.LogBytes)
	}
	if c.LogReserve < 0 {
		bad("log-reserve", "%d is negative", c.LogReserve)
	}
	if c.BatchAge < 10*time.Millisecond || c.BatchAge > time.Minute {
		bad("batch-age", "%s; 10ms to 1m are possible", c.BatchAge)
	}
	if c.RollUpEvery < 10*time.Millisecond || c.RollUpEvery > time.Hour {
		bad("roll-up-every", "%s; 10ms to 1h are possible", c.RollUpEvery)
	}
	if c.ClickHouseMemory != 0 && c.ClickHouseMemory < 1<<30 {
		bad("clickhouse-memory", "%d; 0, or at least 1 GiB", c.ClickHouseMemory)
	}
	if c.MaxPayload < 1024 || c.MaxPayload > 8<<20 {
		bad("max-payload", "%d; 1 KiB to 8 MiB are possible", c.MaxPayload)
	}
	for flag, keep := range map[string]time.Duration{"keep-samples": c.KeepSamples, "keep-events": c.KeepEvents, "keep-1m": c.Keep1m, "keep-1h": c.Keep1h} {
		if keep != 0 && keep < 24*time.Hour {
			bad(flag, "%s; 0, or at least 24h", keep)
		}
	}
	if c.KeepLog != 0 && c.KeepLog < time.Hour {
		bad("keep-log", "%s; 0, or at least 1h", c.KeepLog)
	}
	if c.KeepControl != 0 && c.KeepControl < 24*time.Hour {
		bad("keep-control", "%s; 0, or at least 24h", c.KeepControl)
	}
	if c.SnapshotBytes < 0 {
		bad("snapshot-bytes", "%d is negative", c.SnapshotBytes)
	}
	if c.ShadowBytes < 1 || c.ShadowBytes > 120<<10 {
		bad("shadow-bytes", "%d; 1 byte to 120 KiB are possible", c.ShadowBytes)
	}
	if c.ShadowDepth < 1 || c.ShadowDepth > 100 {
		bad("shadow-depth", "%d; 1 to 100 are possible", c.ShadowDepth)
	}
	if c.MaxConnections < 1 {
		bad("max-connections", "%d", c.MaxConnections)
	}
	if c.PresenceGrace < time.Second {
		bad("presence-grace", "%s; at least 1s", c.PresenceGrace)
	}
	if c.MaxCommands < 1 {
		bad("max-commands", "%d", c.MaxCommands)
	}
	if c.CommandsInFlight < 1 {
		bad("commands-in-flight", "%d", c.CommandsInFlight)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		bad("tls-cert", "--tls-cert and --tls-key go together")
	}
	for flag, file := range map[string]string{"nats-creds": c.NATSCreds, "tls-cert": c.TLSCert, "tls-key": c.TLSKey} {
		if file != "" {
			if _, err := os.Stat(file); err != nil {
				bad(flag, "%v", err)
			}
		}
	}
	return errors.Join(errs...)
}

// address is host:port to listen on; port 0 with --ports auto.
func (c Config) address(host string, port int) string {
	if c.Ports == "auto" {
		port = 0
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func (c Config) file(name ...string) string {
	return filepath.Join(append([]string{c.Data}, name...)...)
}
