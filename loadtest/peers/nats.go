package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/events"
)

// childEnv names the data folder to the process that is to be a nats-server.
const childEnv = "TACHO_PEER_NATS"

const natsStream = "TELEMETRY"

// NATS is a plain nats-server with JetStream on files and its own MQTT
// listener, and, with CreateStream, a stream of the same shape as the gateway's
// on the subjects that MQTT topics map to.
type NATS struct {
	*child
	URL, MQTT string

	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
}

// MaybeChild makes this process a nats-server if StartNATS started it as one,
// and then does not return. It comes first in main, or in TestMain.
func MaybeChild() {
	dir := os.Getenv(childEnv)
	if dir == "" {
		return
	}
	if err := serveNATS(dir); err != nil {
		fmt.Fprintln(os.Stderr, "nats-server:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serveNATS(dir string) error {
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, ServerName: "peer", JetStream: true, StoreDir: dir, MaxPayload: 2 << 20}
	o.MQTT.Host, o.MQTT.Port = "127.0.0.1", server.RANDOM_PORT
	// As good as it gets: its default queues drop what comes too fast.
	o.StreamMaxBufferedMsgs, o.StreamMaxBufferedSize = 1_000_000, 512<<20
	o.JetStreamLimits.DefaultMaxConsumers = -1
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.SetLoggerV2(nil, false, false, false)
	s.Start() // it takes care of SIGTERM
	if !s.ReadyForConnections(20 * time.Second) {
		return errors.New("not ready")
	}
	addresses, err := json.Marshal(map[string]string{"URL": s.ClientURL(), "MQTT": net.JoinHostPort("127.0.0.1", strconv.Itoa(o.MQTT.Port))})
	if err != nil {
		return err
	}
	fmt.Println(string(addresses))
	s.WaitForShutdown()
	return nil
}

// StartNATS starts the server as a child of this program, which must call
// MaybeChild when it gets args.
func StartNATS(ctx context.Context, dir string, args ...string) (_ *NATS, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start nats-server: %w", err)
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout = in
	n := &NATS{}
	n.child, err = startChild(cmd, filepath.Clean(dir)+".log")
	in.Close()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.stop())
		}
	}()
	line, err := firstLine(out)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("it ended; see %s", n.log.Name())
		}
		return nil, err
	}
	if err := json.Unmarshal([]byte(line), n); err != nil {
		return nil, err
	}
	if n.conn, err = nats.Connect(n.URL); err != nil {
		return nil, err
	}
	js, err := jetstream.New(n.conn)
	if err != nil {
		return nil, err
	}
	n.js = js
	return n, nil
}

// CreateStream makes the stream for those who publish without a gateway.
func (n *NATS) CreateStream(ctx context.Context) (err error) {
	n.stream, err = n.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: natsStream, Subjects: []string{"in.*.*.*.*"}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		AllowDirect: true, AllowAtomicPublish: true, AllowBatchPublish: true,
		RePublish: &jetstream.RePublish{Source: "in.*.*.*.*", Destination: "tacho.telemetry.{{wildcard(2)}}.{{wildcard(3)}}"},
	})
	if err != nil {
		err = fmt.Errorf("nats-server: %w", err)
	}
	return err
}

// Stop ends the server.
func (n *NATS) Stop() error {
	n.conn.Close()
	return n.stop()
}

// PID is the server's process.
func (n *NATS) PID() int { return n.pid() }

// Stored is how many messages the stream has.
func (n *NATS) Stored(ctx context.Context) (int, error) {
	info, err := n.stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	return int(info.State.Msgs), nil
}

// Topic is the MQTT topic of a device that maps to a subject of the stream.
func (n *NATS) Topic(device string) string {
	return "in/" + strconv.Itoa(int(events.Slot(device))) + "/" + device + "/position/0"
}

// Login is nobody: the server asks for no password, which spares it the check.
func (n *NATS) Login(string) (user, password string) { return "", "" }

// pending is how many bare publishes may wait for their acknowledgement.
const pending = 4000

// Publish is the bare publisher: JetStream async publishes from one client
// straight into the stream, without devices, sessions or checks.
func (n *NATS) Publish(ctx context.Context, devices []string, messages int, limit time.Duration) (Result, error) {
	js, err := jetstream.New(n.conn, jetstream.WithPublishAsyncMaxPending(pending))
	if err != nil {
		return Result{}, err
	}
	subjects := make([]string, len(devices))
	for i, d := range devices {
		subjects[i] = (&events.Event{Stream: events.Stream{Kind: events.Telemetry, ID: d}, Type: "position"}).Subject()
	}
	began := time.Now()
	var futures []jetstream.PubAckFuture
	for i := 0; i < messages && ctx.Err() == nil; i++ {
		if i%1024 == 0 && time.Since(began) > limit {
			break
		}
		f, err := js.PublishAsync(subjects[i%len(subjects)], Small.Payload(began, i/len(subjects)), jetstream.WithStallWait(drain))
		if err != nil {
			return Result{}, fmt.Errorf("publish: %w", err)
		}
		futures = append(futures, f)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(drain):
		return Result{}, fmt.Errorf("publish: %d acknowledgements are missing", js.PublishAsyncPending())
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	r := Result{Elapsed: time.Since(began)}
	for _, f := range futures {
		select {
		case err := <-f.Err():
			return r, fmt.Errorf("publish: %w", err)
		default:
			r.Acknowledged++
		}
	}
	return r, nil
}
