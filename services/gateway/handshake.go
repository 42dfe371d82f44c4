package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/services/dialect"
	"github.com/tachograph/tachograph/services/gateway/packet"
)

// handshake reads CONNECT and answers it; false when the connection has no
// future.
func (c *conn) handshake(ctx context.Context, busy bool) bool {
	until := time.Now().Add(c.g.limits.Handshake)
	c.in.until = until
	if c.nc.SetWriteDeadline(until) != nil {
		return false
	}
	f, err := c.in.next(connectBytes, c.stopped)
	if err != nil {
		c.g.metrics.connects.WithLabelValues("no connect").Inc()
		return false
	}
	if f.Type != packet.CONNECT {
		c.g.metrics.connects.WithLabelValues("other packet").Inc()
		return false
	}
	connect, err := packet.DecodeConnect(f.Body)
	c.version = min(connect.Version, packet.V5)
	answer := packet.Connack{
		ReceiveMaximum: uint16(c.g.limits.Window), TopicAliasMaximum: aliasMaximum,
		MaximumPacketSize: uint32(c.g.limits.MaxPayload + packetOverhead),
	}
	var bad *packet.Error
	switch {
	case errors.As(err, &bad):
		answer.Code, answer.Reason = bad.Code, bad.Detail
	case busy:
		answer.Code, answer.Reason = packet.ServerBusy, "too many connections"
	default:
		answer.Code, answer.Reason = c.admit(ctx, &connect, &answer)
	}
	c.g.metrics.connects.WithLabelValues(answer.Code.String()).Inc()
	if !connect.ProblemInfo {
		answer.Reason = ""
	}
	if answer.Code == packet.Success || bad == nil || c.version == packet.V5 || bad.Code == packet.UnsupportedVersion {
		if _, err = c.nc.Write(packet.AppendConnack(nil, c.version, answer)); err != nil && c.sess != nil {
			c.g.sessions.detach(ctx, c)
		}
		return err == nil && answer.Code == packet.Success
	}
	return false // a malformed CONNECT of version 3.1.1 has no answer
}

// admit decides about a CONNECT and, on success, gives the connection its
// session.
func (c *conn) admit(ctx context.Context, connect *packet.Connect, answer *packet.Connack) (code packet.Code, reason string) {
	limits := &c.g.limits
	switch {
	case connect.AuthMethod != "":
		return packet.BadAuthenticationMethod, "extended authentication is not supported"
	case len(connect.ClientID) > clientIDBytes:
		return packet.BadClientID, "client id is too long"
	case connect.ClientID == "" && !connect.CleanStart && connect.Version != packet.V5:
		return packet.BadClientID, "an empty client id needs a clean session"
	}
	device, code := c.g.identify(connect)
	if code != packet.Success {
		return code, "user name is the device's id, password its token"
	}
	if code, reason := c.g.checkWill(device, connect); code != packet.Success {
		return code, reason
	}
	if connect.ClientID == "" {
		connect.ClientID = "tacho-" + events.UniqueID()
		answer.AssignedClientID = connect.ClientID
	}
	var expiry time.Duration
	if connect.Version == packet.V5 {
		expiry = min(time.Duration(connect.Expiry)*time.Second, limits.SessionExpiry)
		answer.HasExpiry = expiry != time.Duration(connect.Expiry)*time.Second
		answer.Expiry = uint32(expiry / time.Second)
	} else if !connect.CleanStart {
		expiry = limits.SessionExpiry
	}
	c.sender = c.g.Sender(device)
	c.will = connect.Will
	c.clientMaximum = clientMaximum{
		packets: min(int(connect.ReceiveMax), limits.Deliveries), packetBytes: int(connect.MaxPacket),
		reasons: connect.Version == packet.V5 && connect.ProblemInfo && connect.MaxPacket == 0,
	}
	c.in.until = time.Time{}
	c.in.silence = time.Duration(connect.KeepAlive) * time.Second * 3 / 2
	present, ok := c.g.sessions.attach(c, connect.ClientID, connect.CleanStart, expiry)
	if !ok {
		return packet.QuotaExceeded, "the device has too many connections"
	}
	answer.SessionPresent = present
	if d, again := c.g.identify(connect); again != packet.Success || d != device {
		// Revoked between the first look and attach: revoke may have missed it.
		c.will = nil
		c.g.sessions.detach(ctx, c)
		c.sess = nil
		return again, "the token is no longer valid"
	}
	return packet.Success, ""
}

// identify tells which device connects: user name and password are its id and
// token; a token alone, as user name or as password, says it too.
func (g *Gateway) identify(connect *packet.Connect) (device string, code packet.Code) {
	name, password := connect.UserName, connect.Password
	switch {
	case name == "" && password == "":
		return "", packet.NotAuthorized
	case name == "":
		device, _ = g.auth.Owner(password)
	case password == "":
		device, _ = g.auth.Owner(name)
	case g.auth.Authenticate(name, password):
		device = name
	}
	if device == "" {
		return "", packet.BadUserNameOrPassword
	}
	return device, packet.Success
}

// checkWill refuses a will that could never be accepted.
func (g *Gateway) checkWill(device string, connect *packet.Connect) (packet.Code, string) {
	w := connect.Will
	if w == nil {
		return packet.Success, ""
	}
	code, reason := packet.Success, ""
	route, err := g.dialect.Parse(device, w.Topic)
	switch {
	case w.Retain && connect.Version == packet.V5:
		code, reason = packet.RetainNotSupported, "retained messages are not kept"
	case errors.Is(err, dialect.ErrForeign):
		code, reason = packet.NotAuthorized, "will: "+err.Error()
	case err != nil:
		code, reason = packet.TopicNameInvalid, "will: "+err.Error()
	case route.Kind == dialect.Telemetry:
		if err := schemas.ValidName(route.Type); err != nil {
			code, reason = packet.TopicNameInvalid, "will: "+err.Error()
		}
	}
	if code != packet.Success && connect.Version != packet.V5 {
		code = packet.NotAuthorized
	}
	return code, reason
}

// publishWill takes in the message of a device that vanished, as if it had just
// sent it. Nobody waits for its acknowledgement.
func (g *Gateway) publishWill(ctx context.Context, s *Sender, w *packet.Will) {
	t := g.topicOf(s.device, w.Topic)
	if t.refusal != nil {
		g.metrics.refuse(MQTT, t.refusal.Reason)
		return
	}
	if t.service != nil {
		return // as at AWS: a will is no request to a shadow, nor an answer
	}
	ctx, cancel := context.WithTimeout(ctx, g.limits.Drain)
	defer cancel()
	m := Message{Sender: s, Via: MQTT, Type: t.typ, ID: w.MessageID, Payload: w.Payload, Patient: true}
	if err := g.Accept(ctx, &m, func(error) {}); err != nil {
		g.logger.Warn("will was not stored", "device", s.device, "error", err)
	}
}
