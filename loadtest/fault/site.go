package fault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// A site is one node of all roles, with its ClickHouse, on a nats-server of its
// own, so that what NATS keeps can be looked at, and be removed, without it.
type site struct {
	tacho, dir string
	partitions int

	nats *natsProcess
	node part
}

// presenceGrace is for how long a device may be away before that is a fact.
const presenceGrace = time.Second

func newSite(tacho, dir string, partitions int) (*site, error) {
	if _, err := os.Stat(dir); err == nil {
		return nil, fmt.Errorf("%s is there already", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	n, err := newNATS(filepath.Join(dir, "nats"))
	if err != nil {
		return nil, err
	}
	s := &site{tacho: tacho, dir: dir, partitions: partitions, nats: n}
	s.node = part{tacho: tacho, dir: filepath.Join(dir, "node"), flags: append(s.place(), "--batch-age", "50ms", "--roll-up-every", "200ms", "--presence-grace", presenceGrace.String())}
	return s, n.start()
}

// place are the flags that say which log it is.
func (s *site) place() []string {
	return []string{"--nats", s.natsURL(), "--partitions", fmt.Sprint(s.partitions)}
}

func (s *site) natsURL() string { return "nats://" + s.nats.at }

func (s *site) gatewayNode() (*fleet.Node, error) {
	if _, n := s.node.running(); n != nil {
		return n, nil
	}
	return nil, errors.New("there is no node")
}

func (s *site) mqtt() string {
	if _, n := s.node.running(); n != nil {
		return n.MQTT
	}
	return ""
}

// abandon kills what is left.
func (s *site) abandon() {
	s.node.kill()
	s.nats.kill()
}

// run lets the real program run to its end.
func (s *site) run(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, s.tacho, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("tacho %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// ask asks the API as the administrator.
func (s *site) ask(ctx context.Context, method, path string, body []byte) (string, error) {
	n, err := s.gatewayNode()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = call(ctx, n, method, path, body, func(line []byte) error {
		text.Write(line)
		return nil
	})
	return text.String(), err
}

// sql asks ClickHouse as the writer and passes on each line.
func (s *site) sql(ctx context.Context, sql string, each func(line []byte) error) error {
	n, err := s.gatewayNode()
	if err != nil {
		return err
	}
	password, err := os.ReadFile(filepath.Join(s.node.dir, "clickhouse.writer.password"))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.ClickHouseHTTP+"/", strings.NewReader(sql))
	if err != nil {
		return err
	}
	req.Header.Set("X-ClickHouse-User", "tacho")
	req.Header.Set("X-ClickHouse-Key", strings.TrimSpace(string(password)))
	return eachLine(req, each)
}

// jetStream gives work the log and the views past the node.
func (s *site) jetStream(work func(js jetstream.JetStream) error) error {
	nc, err := nats.Connect(s.natsURL())
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return work(js)
}

// standing is how far everything is that the node folds.
type standing struct {
	tails  map[string]uint64 // by partition
	behind []string
}

func (s *site) standing(ctx context.Context) (st standing, err error) {
	text, err := s.ask(ctx, http.MethodGet, "/v1/projections", nil)
	if err != nil {
		return st, err
	}
	var says struct {
		Projections []struct {
			Name      string
			Partition uint16
			Tail, Lag uint64
			CaughtUp  bool   `json:"caught_up"`
			LastError string `json:"last_error"`
		}
	}
	if err := json.Unmarshal([]byte(text), &says); err != nil {
		return st, err
	}
	st.tails = map[string]uint64{}
	for _, p := range says.Projections {
		name := fmt.Sprintf("%s %d", p.Name, p.Partition)
		if st.tails[name] = p.Tail; p.Lag > 0 || !p.CaughtUp {
			st.behind = append(st.behind, fmt.Sprintf("%s by %d %s", name, p.Lag, p.LastError))
		}
	}
	if len(says.Projections) == 0 {
		st.behind = append(st.behind, "no projection runs")
	}
	err = s.sql(ctx, `SELECT concat('roll-ups of partition ', toString(partition), ': ', toString(maxIf(seq, table = '_rollups')), ' of ', toString(maxIf(seq, table = 'events')))
		FROM tacho.checkpoints WHERE partition < 256 GROUP BY partition HAVING maxIf(seq, table = '_rollups') < maxIf(seq, table = 'events') FORMAT TSVRaw`, func(line []byte) error {
		st.behind = append(st.behind, string(line))
		return nil
	})
	return st, err
}

// caughtUp waits until every projection has what the log has now.
func (s *site) caughtUp(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s are over", patience))
	defer cancel()
	for {
		st, err := s.standing(ctx)
		if err == nil && len(st.behind) == 0 {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return errors.Join(fmt.Errorf("not caught up: %w: %s", context.Cause(ctx), strings.Join(st.behind, ", ")), err)
		}
	}
}

// stillness is for how long nothing may have come for a site to be called quiet.
const stillness = 500 * time.Millisecond

// quiet waits until every projection has the whole log, and nothing comes any more:
// no car is connected, and no command is open.
func (s *site) quiet(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s are over", patience))
	defer cancel()
	var since time.Time
	last := ""
	for {
		st, err := s.standing(ctx)
		for what, sql := range map[string]string{
			"commands are open":               "SELECT countIf(NOT final) AS n FROM tacho.commands HAVING n > 0",
			"devices are not said to be gone": "SELECT countIf(last != 'offline') AS n FROM (SELECT device, argMax(change, version) AS last FROM tacho.presence GROUP BY device) HAVING n > 0",
		} {
			if err == nil {
				err = s.sql(ctx, sql, func(line []byte) error {
					st.behind = append(st.behind, string(line)+" "+what)
					return nil
				})
			}
		}
		if n, ferr := s.gatewayNode(); err == nil && ferr == nil {
			connected := 0
			if connected, err = n.Connected(ctx); connected > 0 {
				st.behind = append(st.behind, fmt.Sprintf("%d devices are connected", connected))
			}
		}
		now := fmt.Sprint(st.tails)
		switch {
		case err != nil || len(st.behind) > 0 || now != last:
			since, last = time.Now(), now
		case time.Since(since) > stillness:
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return errors.Join(fmt.Errorf("not quiet: %w: %s", context.Cause(ctx), strings.Join(st.behind, ", ")), err)
		}
	}
}

// appended stores events past the gateway: what another release, or another
// hand, may have left in a log.
func (s *site) appended(ctx context.Context, msgs []*nats.Msg) error {
	return s.jetStream(func(js jetstream.JetStream) error {
		for _, m := range msgs {
			if _, err := js.PublishMsg(ctx, m); err != nil {
				return fmt.Errorf("store %s: %w", bytes.TrimSpace([]byte(m.Subject)), err)
			}
		}
		return nil
	})
}
