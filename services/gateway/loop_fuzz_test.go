package gateway_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2/packets"

	"github.com/tachograph/tachograph/services/gateway"
	"github.com/tachograph/tachograph/services/gateway/gatewaytest"
)

// A pipeListener hands out connections that are made in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case nc := <-l.conns:
		return nc, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// FuzzLoop: whatever a client sends, before its CONNECT or after, the gateway
// goes on and serves the next.
func FuzzLoop(f *testing.F) {
	fix := gatewaytest.Start(f, newMemlog(f), gateway.Limits{MaxPayload: 5000, ConnectionsPerSecond: 1e9, Stall: time.Second, MessagesPerSecond: 1e9})
	token := fix.Add(f, "car-1")
	l := &pipeListener{make(chan net.Conn), make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- fix.ServeMQTT(ctx, l) }()
	f.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
	hello := func(version byte) []byte {
		p := mochi.Packet{FixedHeader: mochi.FixedHeader{Type: mochi.Connect}, ProtocolVersion: version, Connect: mochi.ConnectParams{
			ProtocolName: []byte("MQTT"), ClientIdentifier: "x", Username: []byte("car-1"), UsernameFlag: true, Password: []byte(token), PasswordFlag: true,
		}}
		kept(&p)
		return encode(f, p, version)
	}
	hellos := [3][]byte{nil, hello(4), hello(5)}
	for _, version := range []byte{0, 4, 5} {
		var all []byte
		for _, p := range []mochi.Packet{
			publish(0, 0, "telemetry/position", position), publish(1, 1, "telemetry/position", position), publish(2, 2, "telemetry/x", "{"), publish(2, 2, "telemetry/x", "{"),
			pubrel(2), subscribe(3, "commands/#", "#"), {FixedHeader: mochi.FixedHeader{Type: mochi.Pingreq}}, {FixedHeader: mochi.FixedHeader{Type: mochi.Puback}, PacketID: 9},
			publish(1, 4, "telemetry/car-2/position", position), {FixedHeader: mochi.FixedHeader{Type: mochi.Disconnect}},
		} {
			b := encode(f, p, max(version, 4))
			all = append(all, b...)
			f.Add(version, b)
		}
		f.Add(version, all)
		f.Add(version, append(hello(4), all...))
	}
	f.Fuzz(func(t *testing.T, version byte, b []byte) {
		began := time.Now()
		client, server := net.Pipe()
		l.conns <- server
		heard := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, client)
			close(heard)
		}()
		_ = client.SetWriteDeadline(time.Now().Add(10 * time.Second))
		_, _ = client.Write(hellos[version%3])
		_, _ = client.Write(b)
		_, _ = client.Write([]byte{0xE0, 0x00}) // good-bye, if it is still listening
		_ = client.Close()
		<-heard
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
