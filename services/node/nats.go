package node

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/tachograph/tachograph/events/jetlog"
	"github.com/tachograph/tachograph/services/gateway"
)

// The accounts of the embedded server. The log lives in one, the views and
// those who listen in the other: whatever a listener may set up there, nothing
// it does can reach a subject of the log.
const (
	logAccount      = "TACHO"
	servicesAccount = "SERVICES"
	listenerUser    = "listener"
)

const accounts = `accounts {
	TACHO:    { jetstream: enabled, exports: [ { stream: "tacho.>" } ] }
	SERVICES: { jetstream: enabled, imports: [ { stream: { account: TACHO, subject: "tacho.>" } } ] }
}`

// An embedded is a nats-server in this process.
type embedded struct {
	server   *server.Server
	storeDir string
	users    *natsUsers
	voice    *natsLogger
}

// natsUsers decides who may connect to the embedded server and what they may
// do there. Nobody is anonymous.
type natsUsers struct {
	internal, listener string // passwords; the internal one is new with every start
	log, services      *server.Account
	devices            atomic.Pointer[func(id, token string) bool]
}

const (
	internalLogUser      = "$tacho-log"
	internalServicesUser = "$tacho-services"
)

func startNATS(c Config, listenerPassword string, logger *slog.Logger) (*embedded, error) {
	e := &embedded{storeDir: c.file("nats"), voice: newNATSLogger(logger), users: &natsUsers{internal: newSecret(), listener: listenerPassword}}
	opts := &server.Options{}
	if err := opts.ProcessConfigString(accounts); err != nil {
		return nil, fmt.Errorf("configure NATS: %w", err)
	}
	host, port, err := net.SplitHostPort(c.address(c.NATSHost, c.NATSPort))
	if err != nil {
		return nil, err
	}
	opts.Host, opts.ServerName = host, "tacho"
	if opts.Port, err = strconv.Atoi(port); err != nil {
		return nil, err
	}
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	} else if l, err := net.Listen("tcp", c.address(c.NATSHost, c.NATSPort)); err != nil {
		return nil, portTaken("nats-port", err)
	} else {
		l.Close()
	}
	opts.JetStream, opts.StoreDir = true, e.storeDir
	opts.NoSigs, opts.DisableShortFirstPing = true, true
	opts.MaxPayload = int32(c.MaxPayload + 64<<10)
	opts.WriteDeadline = 10 * time.Second
	opts.CustomClientAuthentication = e.users
	// What may be stored is the disk guard's to judge, as the disk is now.
	if opts.JetStreamMaxStore, err = diskSize(c.Data); err != nil {
		return nil, err
	}
	opts.StreamMaxBufferedMsgs, opts.StreamMaxBufferedSize = 1_000_000, 512<<20
	if err := jetlog.MendMeta(e.storeDir); err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	if err := jetlog.Scrub(e.storeDir, logAccount); err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	if e.server, err = server.NewServer(opts); err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	e.server.SetLoggerV2(e.voice, false, false, false)
	if e.users.log, err = e.server.LookupAccount(logAccount); err == nil {
		e.users.services, err = e.server.LookupAccount(servicesAccount)
	}
	if err != nil {
		return nil, fmt.Errorf("start NATS: %w", err)
	}
	e.server.Start()
	if !e.server.ReadyForConnections(30 * time.Second) {
		e.server.Shutdown()
		return nil, errors.New("start NATS: not ready after 30 s; see the log above")
	}
	return e, nil
}

func (e *embedded) connect(user string, opts ...nats.Option) (*nats.Conn, error) {
	opts = append(opts,
		nats.UserInfo(user, e.users.internal), nats.Name(user), nats.ReconnectBufSize(-1),
		nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	nc, err := nats.Connect(e.server.ClientURL(), opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded NATS: %w", err)
	}
	return nc, nil
}

// Any implements jetlog.Interest.
func (e *embedded) Any() bool {
	if e.users.services.NumLocalConnections() <= 1 { // our own
		return false
	}
	subs, err := e.server.Subsz(&server.SubszOptions{Subscriptions: true, Account: servicesAccount, Limit: 1 << 20})
	if err != nil {
		return true // who cannot tell assumes that somebody does
	}
	for _, s := range subs.Subs {
		if server.SubjectsCollide(s.Subject, "tacho.telemetry.>") {
			return true
		}
	}
	return false
}

// In implements jetlog.Interest.
func (e *embedded) In(subject string) bool { return e.users.log.SubscriptionInterest(subject) }

func (e *embedded) stop() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

// Check implements server.Authentication.
func (u *natsUsers) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	user := &server.User{Username: o.Username}
	switch o.Username {
	case internalLogUser, internalServicesUser:
		if !equal(o.Password, u.internal) {
			return false
		}
		user.Account = u.log
		if o.Username == internalServicesUser {
			user.Account = u.services
		}
	case listenerUser:
		if !equal(o.Password, u.listener) {
			return false
		}
		user.Account, user.Permissions = u.services, listenerPermissions()
	default:
		check := u.devices.Load()
		if check == nil || !(*check)(o.Username, o.Password) {
			return false
		}
		user.Account, user.Permissions = u.log, gateway.NATSDevicePermissions(o.Username)
	}
	c.RegisterUser(user)
	return true
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// listenerPermissions: hear what is public and what is put into the views, ask
// for views by way of serveViews, and nothing else. Nothing of JetStream's own
// API is here, for its answers go wherever the request says.
func listenerPermissions() *server.Permissions {
	subscribe := []string{"tacho.>", listenerInbox + ">"}
	var publish []string
	for _, bucket := range viewBuckets {
		subscribe = append(subscribe, "$KV."+bucket+".>")
		publish = append(publish, "$JS.FC.KV_"+bucket+".>") // has no answer
	}
	for _, subject := range viewSubjects() {
		publish = append(publish, ViewPrefix+"."+subject)
	}
	return &server.Permissions{
		Subscribe: &server.SubjectPermission{Allow: subscribe},
		Publish:   &server.SubjectPermission{Allow: publish},
	}
}
