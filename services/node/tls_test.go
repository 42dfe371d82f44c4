package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// newCertificate writes a certificate for loopback and its key, and returns who trusts it.
func newCertificate(t *testing.T) (cert, key string, trust *tls.Config) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := x509.NewCertPool()
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(leaf)
	return cert, key, &tls.Config{RootCAs: pool}
}

// TestTLS: with a certificate MQTT and HTTP speak TLS and nothing else.
func TestTLS(t *testing.T) {
	cert, key, trust := newCertificate(t)
	n := startNode(t, defaults(t, "--role", "gateway,api", "--tls-cert", cert, "--tls-key", key))
	token, err := n.auth.Add(t.Context(), "car-1")
	if err != nil {
		t.Fatal(err)
	}
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://" + n.addrs.MQTT).SetTLSConfig(trust).SetClientID("x").SetUsername("car-1").SetPassword(token))
	if tok := c.Connect(); !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
		t.Fatal("connect: ", tok.Error())
	}
	defer c.Disconnect(100)
	if tok := c.Publish("telemetry/position", 1, false, `{"speed":1}`); !tok.WaitTimeout(2*time.Minute) || tok.Error() != nil {
		t.Fatal("publish: ", tok.Error())
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+n.addrs.HTTP+"/v1/devices/car-1/telemetry/position", strings.NewReader(`{"speed":2}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("%s %s", resp.Status, body)
	}
	plain := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + n.addrs.MQTT).SetClientID("y").SetUsername("car-1").SetPassword(token).SetConnectTimeout(5 * time.Second))
	if tok := plain.Connect(); tok.WaitTimeout(2*time.Minute) && tok.Error() == nil {
		t.Error("MQTT without TLS is let in")
	}
	if resp, err := impatient.Get("http://" + n.addrs.HTTP + "/healthz"); err == nil {
		if resp.Body.Close(); resp.StatusCode == 200 {
			t.Error("HTTP without TLS is answered")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if m, err := Start(ctx, defaults(t, "--role", "gateway", "--tls-cert", cert, "--tls-key", cert), slog.New(slog.DiscardHandler)); err == nil {
		stopNode(t, m)
		t.Error("a wrong key is accepted")
	} else if !strings.Contains(err.Error(), "--tls-cert") {
		t.Errorf("a wrong key: %v", err)
	}
}
