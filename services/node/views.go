package node

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/projections/latest"
	"github.com/tachograph/tachograph/services/shadows"
)

// ViewPrefix stands in the place of $JS.API where the listening user reads
// views: jetstream.NewWithAPIPrefix(nc, "view"), nats --js-api-prefix view.
const ViewPrefix = "view"

const (
	jetStreamAPI    = "$JS.API."
	listenerInbox   = "_INBOX."
	servicesInbox   = "_INBOX_tacho" // of this process: listeners neither hear it nor can name it
	viewRequestSize = 64 << 10
	viewRequests    = 4096
	viewIdle        = 5 * time.Minute
	viewSubject     = 256 // bytes of an inbox
)

// viewBuckets are the views that the listening user may read and watch.
var viewBuckets = []string{latest.Bucket, shadows.Bucket}

// viewSubjects lists the subjects of JetStream's API, without its prefix, that
// reading and watching buckets takes.
func viewSubjects() (subjects []string) {
	for _, bucket := range viewBuckets {
		stream := "KV_" + bucket
		subjects = append(subjects, "STREAM.INFO."+stream, "STREAM.MSG.GET."+stream, "DIRECT.GET."+stream, "DIRECT.GET."+stream+".>",
			"CONSUMER.CREATE."+stream, "CONSUMER.CREATE."+stream+".>", "CONSUMER.INFO."+stream+".*", "CONSUMER.DELETE."+stream+".*")
	}
	return subjects
}

// serveViews passes on what listeners ask of the views to JetStream, once it is
// sure that the answer goes to an inbox. JetStream publishes by its own right
// to whatever subject a request names, be it one of a bucket or of its own API.
// What is served ends with the connection.
func serveViews(nc *nats.Conn) error {
	for _, subject := range viewSubjects() {
		sub, err := nc.Subscribe(ViewPrefix+"."+subject, func(msg *nats.Msg) { passOn(nc, msg) })
		if err == nil {
			err = sub.SetPendingLimits(viewRequests, viewRequests*viewRequestSize/16)
		}
		if err != nil {
			return fmt.Errorf("serve views: %w", err)
		}
	}
	return nil
}

func passOn(nc *nats.Conn, msg *nats.Msg) {
	if !isInbox(msg.Reply) {
		return // there is nobody to tell
	}
	subject := strings.TrimPrefix(msg.Subject, ViewPrefix+".")
	body := msg.Data
	var refused string
	switch {
	case len(body) > viewRequestSize:
		refused = "a request for a view is too long"
	case strings.HasPrefix(subject, "CONSUMER.CREATE."):
		body, refused = vetConsumer(body)
	}
	if refused != "" {
		var answer server.JSApiConsumerCreateResponse
		answer.Type, answer.Error = server.JSApiConsumerCreateResponseType, &server.ApiError{Code: 403, Description: refused}
		body, _ = json.Marshal(answer)
		_ = nc.Publish(msg.Reply, body) // a lost connection: the listener asks again
		return
	}
	_ = nc.PublishRequest(jetStreamAPI+subject, msg.Reply, body)
}

// vetConsumer returns the request for a consumer as JetStream will see it, or
// why it is refused.
func vetConsumer(body []byte) (vetted []byte, refused string) {
	var r server.CreateConsumerRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, "the request for a consumer is no JSON as JetStream has it"
	}
	c := &r.Config
	switch {
	case !isInbox(c.DeliverSubject):
		return nil, "views are watched by push consumers that deliver to " + listenerInbox + ">, as KV clients make them; not pulled"
	case c.Durable != "":
		return nil, "a consumer of a view can't be durable"
	case c.AckPolicy != server.AckNone:
		return nil, "a consumer of a view doesn't acknowledge (ack_policy: none)"
	}
	c.InactiveThreshold = min(c.InactiveThreshold, viewIdle)
	vetted, err := json.Marshal(r)
	if err != nil {
		return nil, "the request for a consumer: " + err.Error()
	}
	return vetted, ""
}

// isInbox tells whether messages to a subject reach nobody but listeners.
func isInbox(subject string) bool {
	return strings.HasPrefix(subject, listenerInbox) && len(subject) <= viewSubject &&
		server.IsValidLiteralSubject(subject)
}
