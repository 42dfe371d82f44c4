package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/api/problem"
)

// IngestSubject is where a device's messages of a type are sent over NATS:
// ingest.<device>.<type>, both escaped as in the log's subjects.
func IngestSubject(device, typ string) string {
	return "ingest." + events.Escape(device) + "." + events.Escape(typ)
}

const (
	ingestQueue     = "tacho-gateway"
	ingestMessages  = 65536
	ingestBytes     = 64 << 20
	natsErrorCode   = "Nats-Service-Error-Code" // as NATS services have it
	natsErrorReason = "Nats-Service-Error"
)

// ServeNATS answers requests on ingest.> until ctx ends, then those that it has.
// Who may publish where is nats-server's to enforce (NATSDevicePermissions); the
// subject is believed. The reply comes when the message is stored: {"id":"..."},
// or the error body of the HTTP API with its status in Nats-Service-Error-Code. A
// message without a reply subject is stored without an answer, and counted when
// refused. One whose reply subject is not in the device's own inbox is refused,
// counted and not answered: nats-server does not look at reply subjects, and what
// answers there has the gateway's rights, which reach the log's own subjects.
func (g *Gateway) ServeNATS(ctx context.Context, nc *nats.Conn) error {
	sub, err := nc.QueueSubscribeSync("ingest.>", ingestQueue)
	if err != nil {
		return fmt.Errorf("serve nats: %w", err)
	}
	if err := sub.SetPendingLimits(ingestMessages, ingestBytes); err != nil {
		return fmt.Errorf("serve nats: %w", err)
	}
	overrun := 0
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if dropped, derr := sub.Dropped(); derr == nil && dropped > overrun {
			g.metrics.refused[NATS][RateLimited].Add(float64(dropped - overrun))
			overrun = dropped
		}
		switch {
		case err == nil:
			g.ingest(ctx, msg)
		case ctx.Err() != nil:
			return g.drainNATS(context.WithoutCancel(ctx), sub)
		case errors.Is(err, nats.ErrSlowConsumer):
		default:
			return fmt.Errorf("serve nats: %w", err)
		}
	}
}

// drainNATS answers what has been delivered already.
func (g *Gateway) drainNATS(ctx context.Context, sub *nats.Subscription) error {
	if err := sub.Drain(); err != nil {
		return fmt.Errorf("serve nats: drain: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, g.limits.Drain)
	defer cancel()
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil // drained, or out of time
		}
		g.ingest(ctx, msg)
	}
}

func (g *Gateway) ingest(ctx context.Context, msg *nats.Msg) {
	m, p := g.natsMessage(msg)
	if p != nil {
		respond(msg, "", p)
		return
	}
	if m == nil {
		return
	}
	done := func(err error) {
		if err != nil {
			respond(msg, "", refusalOf(err).Problem())
		} else {
			respond(msg, m.ID, nil)
		}
	}
	if err := g.Accept(ctx, m, done); err != nil {
		done(err)
	}
}

// natsMessage returns a message or why it is refused; neither when nobody may
// be told.
func (g *Gateway) natsMessage(msg *nats.Msg) (*Message, *problem.Problem) {
	tokens := strings.Split(msg.Subject, ".")
	// The second token is the device's as nats-server has checked it.
	if msg.Reply != "" && (len(tokens) < 2 || !strings.HasPrefix(msg.Reply, natsInboxPrefix+tokens[1]+".")) {
		g.metrics.refuse(NATS, ForeignTopic)
		return nil, nil
	}
	if len(tokens) != 3 {
		g.metrics.refuse(NATS, UnknownTopic)
		return nil, problem.New(problem.InvalidRequest, fmt.Sprintf("subject %.200q is not ingest.<device>.<type>", msg.Subject), nil)
	}
	device, err := events.Unescape(tokens[1])
	if _, known := g.auth.Get(device); err != nil || !known {
		g.metrics.refuse(NATS, ForeignTopic)
		return nil, problem.New(problem.Forbidden, fmt.Sprintf("subject %.200q: no such device", msg.Subject), nil)
	}
	typ, err := events.Unescape(tokens[2])
	if err != nil {
		g.metrics.refuse(NATS, BadType)
		return nil, problem.New(problem.InvalidMessageType, err.Error(), nil)
	}
	return &Message{Sender: g.Sender(device), Via: NATS, Type: typ, ID: msg.Header.Get(MessageIDHeader), Payload: msg.Data, Patient: true}, nil
}

func respond(msg *nats.Msg, id string, p *problem.Problem) {
	if msg.Reply == "" {
		return
	}
	reply := nats.NewMsg(msg.Reply)
	if p != nil {
		reply.Header.Set(natsErrorCode, strconv.Itoa(p.Code.Status()))
		reply.Header.Set(natsErrorReason, string(p.Code))
		reply.Data = p.Body()
	} else {
		reply.Data, _ = json.Marshal(struct {
			ID string `json:"id"`
		}{id})
	}
	_ = msg.RespondMsg(reply) // a lost connection: the device asks again
}
