package gateway

import (
	"fmt"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/services/auth"
)

// NATSDevicePermissions returns what a device may do on NATS: send its own
// messages, and hear the answers in its own inbox (clients need the inbox prefix
// NATSInbox).
func NATSDevicePermissions(device string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"ingest." + events.Escape(device) + ".>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{NATSInbox(device) + ".>"}},
	}
}

// NATSInbox returns the prefix that a device's client must give its inboxes.
func NATSInbox(device string) string { return natsInboxPrefix + events.Escape(device) }

const natsInboxPrefix = "_INBOX_"

// DeviceNATSAuth lets devices log in to an embedded nats-server, as its
// CustomClientAuthentication: the user is the device's id, the password its
// token. Everybody else is Others' to judge.
type DeviceNATSAuth struct {
	Devices *auth.Directory
	Account *server.Account       // where ServeNATS listens
	Others  server.Authentication // nil lets in devices alone
}

var _ server.Authentication = (*DeviceNATSAuth)(nil)

// Check implements server.Authentication.
func (a *DeviceNATSAuth) Check(c server.ClientAuthentication) bool {
	opts := c.GetOpts()
	if a.Devices.Authenticate(opts.Username, opts.Password) {
		c.RegisterUser(&server.User{Username: opts.Username, Account: a.Account, Permissions: NATSDevicePermissions(opts.Username)})
		return true
	}
	return a.Others != nil && a.Others.Check(c)
}

// DisconnectNATS ends a device's connections to an embedded nats-server, for
// auth.Directory.OnRevoke: nats-server looks at a token only once. It visits every
// connection of the server; call it from a goroutine of its own.
func DisconnectNATS(s *server.Server, device string) error {
	z, err := s.Connz(&server.ConnzOptions{Username: true, User: device, State: server.ConnOpen, Limit: s.NumClients() + 1})
	if err != nil {
		return fmt.Errorf("disconnect %s from nats: %w", device, err)
	}
	for _, c := range z.Conns {
		_ = s.DisconnectClientByID(c.Cid) // its only error: it is gone already
	}
	return nil
}
