package gateway

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tachograph/tachograph/services/gateway/packet"
)

// sessions are all there are, with and without a connection.
type sessions struct {
	g *Gateway

	mu       sync.Mutex
	byDevice map[string][]*session
	n        int // all
	live     int // with a connection
}

func (ss *sessions) init(g *Gateway) { ss.g, ss.byDevice = g, map[string][]*session{} }

// attach gives a connection its session: the one it left behind, unless it wants
// a clean start, or a new one. An older connection of the session is ended: the
// newer wins, and attach returns when nothing more is heard of the older, so that
// what was sent again is not taken in after its repeat. ok is false when the
// device has too many connections.
func (ss *sessions) attach(c *conn, clientID string, clean bool, expiry time.Duration) (present, ok bool) {
	present, ok, older := ss.replace(c, clientID, clean, expiry)
	if older != nil {
		<-older.deaf
	}
	return present, ok
}

func (ss *sessions) replace(c *conn, clientID string, clean bool, expiry time.Duration) (present, ok bool, older *conn) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	key := sessionKey{c.sender.device, clientID}
	s := ss.find(key)
	if s != nil && s.conn != nil {
		older = s.conn
		older.finish(ending{code: packet.SessionTakenOver, label: packet.SessionTakenOver.String()})
		ss.loseConnection(s)
	}
	if s == nil && ss.connections(key.device) >= ss.g.limits.MaxConnectionsPerDevice {
		return false, false, nil
	}
	if s != nil && (clean || s.version != c.version) {
		ss.drop(s)
		s = nil
	}
	present = s != nil
	if s == nil {
		s = &session{key: key, version: c.version}
		ss.byDevice[key.device] = append(ss.byDevice[key.device], s)
		ss.n++
	} else { // it has the newest connection now
		list := ss.byDevice[key.device]
		i := slices.Index(list, s)
		ss.byDevice[key.device] = append(slices.Delete(list, i, i+1), s)
	}
	if s.expires != nil {
		s.expires.Stop()
		s.expires = nil
	}
	s.stopWill() // the delay's purpose: back in time, and nobody need know
	s.mu.Lock()
	s.expiry = expiry
	s.mu.Unlock()
	s.conn, c.sess = c, s
	ss.live++
	ss.report()
	return present, true, older
}

// detach tells that a connection has ended. Its session is kept as long as was
// agreed; its will, if any, is published now or after its delay.
func (ss *sessions) detach(ctx context.Context, c *conn) {
	ctx = context.WithoutCancel(ctx) // a will that is due is published even while we stop
	ss.mu.Lock()
	s := c.sess
	mine := s.conn == c
	if mine {
		ss.loseConnection(s)
	}
	s.mu.Lock()
	expiry := s.expiry
	s.mu.Unlock()
	will := c.will
	if will != nil {
		delay := min(time.Duration(will.Delay)*time.Second, expiry)
		switch {
		case delay == 0:
		case mine:
			sender, late := c.sender, will
			s.will = time.AfterFunc(delay, func() { ss.g.publishWill(ctx, sender, late) })
			will = nil
		default: // taken over: it is back
			will = nil
		}
	}
	if mine {
		ss.keep(s, expiry)
	}
	ss.report()
	ss.mu.Unlock()
	if will != nil {
		ss.g.publishWill(ctx, c.sender, will)
	}
}

// keep holds a session without a connection for as long as was agreed.
func (ss *sessions) keep(s *session, expiry time.Duration) {
	if expiry == 0 || ss.n-ss.live > ss.g.limits.MaxSessions {
		ss.drop(s)
		return
	}
	s.left = time.Now()
	s.expires = time.AfterFunc(expiry, func() {
		ss.mu.Lock()
		defer ss.mu.Unlock()
		if s.conn == nil && s.expires != nil {
			ss.drop(s)
			ss.report()
		}
	})
	var oldest *session
	kept := 0
	for _, other := range ss.byDevice[s.key.device] {
		if other.conn == nil {
			if kept++; oldest == nil || other.left.Before(oldest.left) {
				oldest = other
			}
		}
	}
	if kept > ss.g.limits.SessionsPerDevice {
		ss.drop(oldest)
	}
}

// revoke ends all sessions of a device whose token is no longer valid.
func (ss *sessions) revoke(device string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, s := range slices.Clone(ss.byDevice[device]) {
		if s.conn != nil {
			s.conn.finish(ending{code: packet.AdministrativeAction, detail: "the token is no longer valid", label: "revoked", noWill: true})
			ss.loseConnection(s)
		}
		s.stopWill()
		ss.drop(s)
	}
	ss.report()
}

func (ss *sessions) find(key sessionKey) *session {
	for _, s := range ss.byDevice[key.device] {
		if s.key == key {
			return s
		}
	}
	return nil
}

func (ss *sessions) connections(device string) (n int) {
	for _, s := range ss.byDevice[device] {
		if s.conn != nil {
			n++
		}
	}
	return n
}

func (s *session) stopWill() {
	if s.will != nil {
		s.will.Stop()
		s.will = nil
	}
}

func (ss *sessions) loseConnection(s *session) {
	s.conn = nil
	ss.live--
}

func (ss *sessions) drop(s *session) {
	if s.expires != nil {
		s.expires.Stop()
		s.expires = nil
	}
	list := ss.byDevice[s.key.device]
	if i := slices.Index(list, s); i >= 0 {
		list = slices.Delete(list, i, i+1)
		ss.n--
	}
	if len(list) == 0 {
		delete(ss.byDevice, s.key.device)
	} else {
		ss.byDevice[s.key.device] = list
	}
}

// connected returns the device's connections, the newest last.
func (ss *sessions) connected(device string) (conns []*conn) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for _, s := range ss.byDevice[device] {
		if s.conn != nil {
			conns = append(conns, s.conn)
		}
	}
	return conns
}

func (ss *sessions) report() {
	ss.g.metrics.connections.Set(float64(ss.live))
	ss.g.metrics.sessions.Set(float64(ss.n))
}
