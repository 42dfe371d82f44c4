package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tachograph/tachograph/loadtest/fleet"
)

// A CommandCampaign has a fleet of cars that come and go obey commands, while
// the node they come by is killed with -9 again and again, whole or its
// ClickHouse alone, at moments that the seed chooses. In the end what the cars
// did is held against what the node says of it.
type CommandCampaign struct {
	Tacho, Dir string
	Apart      bool // a gateway and a projector in processes of their own, killed by turns, instead of one node
	Cars       int
	Commands   int
	Rate       float64 // commands a second
	Kills      int
	Seed       uint64
	Say        func(format string, args ...any)

	stage  stage
	cars   []*fleet.Obeyer
	mu     sync.Mutex
	orders []*fleet.Order
	tried  int // orders that were refused for good
}

// An Obedience is the judge's verdict.
type Obedience struct {
	Commands int            // that the node has taken
	Refused  int            // orders that it has not, for good
	States   map[string]int // their final states
	Executed int            // that a car has done
	Twice    int            // done more often than once, by a car that dedupes or under now_or_never
	Doubled  int            // orders that became several commands
	Open     int            // without a final state
	Lost     int            // taken, and not to be found
	Untrue   int            // whose final state is not what happened
	Overdue  int            // arrived after the deadline, told by the message; the car did not begin
	Ghosts   int            // devices that are called connected and are not
	Lies     []string       // examples
}

// Good tells whether all is as promised.
func (o Obedience) Good() bool {
	return o.Twice == 0 && o.Doubled == 0 && o.Open == 0 && o.Lost == 0 && o.Untrue == 0 && o.Ghosts == 0 && o.Commands > 0
}

func (o Obedience) String() string {
	return fmt.Sprintf("%d commands taken, %d refused; executed %d, twice %d; %d arrived after their deadline and were not begun; final states %v, open %d, lost %d, untrue %d, orders doubled %d; ghosts %d %s",
		o.Commands, o.Refused, o.Executed, o.Twice, o.Overdue, o.States, o.Open, o.Lost, o.Untrue, o.Doubled, o.Ghosts, strings.Join(o.Lies, "; "))
}

// Times of a command: how long it may wait to be sent, and to be answered then.
const (
	shortest = 300 * time.Millisecond
	longest  = 6 * time.Second
	answerIn = 6 * time.Second
)

// Run returns the verdict; an error is what kept it from judging.
func (c *CommandCampaign) Run(ctx context.Context) (v Obedience, err error) {
	fail := func(err error) (Obedience, error) { return v, fmt.Errorf("commands: seed %d: %w", c.Seed, err) }
	if c.stage, err = c.set(); err != nil {
		return fail(err)
	}
	defer c.stage.abandon()
	if err := c.stage.start(ctx); err != nil {
		return fail(err)
	}
	names := make([]string, c.Cars)
	for i := range names {
		names[i] = fmt.Sprintf("car-%d", i)
	}
	tokens, err := c.stage.nodes()[0].Tokens(ctx, names)
	if err != nil {
		return fail(err)
	}
	driving, park := context.WithCancel(ctx)
	defer park()
	var calm atomic.Bool
	var on sync.WaitGroup
	for i, name := range names {
		car := &fleet.Obeyer{Name: name, Token: tokens[name], Dedupes: i%2 == 0}
		c.cars = append(c.cars, car)
		on.Go(func() {
			car.Live(driving, c.stage.mqtt, &calm, c.Seed*1_000_003+uint64(i))
		})
	}
	ordered := make(chan struct{})
	go func() { defer close(ordered); c.order(driving) }()
	if err := c.killing(ctx, ordered); err != nil {
		return fail(err)
	}
	<-ordered
	calm.Store(true) // all come home
	if err := c.settle(ctx); err != nil {
		return fail(err)
	}
	if v, err = c.judge(ctx, c.stage.tables()); err != nil {
		return fail(err)
	}
	park()
	on.Wait()
	for end := time.Now().Add(time.Minute); ; {
		if v.Ghosts, err = c.stage.nodes()[0].Connected(ctx); err != nil || v.Ghosts == 0 || time.Now().After(end) {
			break
		}
		if err = pause(ctx, 200*time.Millisecond); err != nil {
			break
		}
	}
	if err != nil {
		return fail(err)
	}
	return v, c.stage.stop()
}

// order asks for all commands at the given rate, each until the node has said
// what it thinks of it.
func (c *CommandCampaign) order(ctx context.Context) {
	r := rand.New(rand.NewPCG(c.Seed, 5))
	var asking sync.WaitGroup
	places := make(chan struct{}, 64)
	began := time.Now()
	for n := range c.Commands {
		o := &fleet.Order{N: n, Device: c.cars[r.IntN(len(c.cars))].Name, Policy: []string{"now_or_never", "until_deadline"}[r.IntN(2)]}
		within := shortest + time.Duration(r.Int64N(int64(longest-shortest)))
		cancel := r.IntN(30) == 0
		if pause(ctx, time.Until(began.Add(time.Duration(float64(n)/c.Rate*float64(time.Second))))) != nil {
			break
		}
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			c.ask(ctx, o, within, cancel)
		})
	}
	asking.Wait()
}

func (c *CommandCampaign) ask(ctx context.Context, o *fleet.Order, within time.Duration, cancel bool) {
	for try := 0; ctx.Err() == nil; try++ {
		nodes := c.stage.nodes()
		node := nodes[(o.N+try)%len(nodes)]
		status, err := node.Order(ctx, o, within, answerIn)
		if err == nil {
			c.mu.Lock()
			c.orders = append(c.orders, o)
			c.mu.Unlock()
			if cancel {
				_ = node.Cancel(ctx, o) // it may be over, or nobody there
			}
			return
		}
		if status/100 == 4 && status != 408 {
			c.mu.Lock()
			c.tried++
			c.mu.Unlock()
			c.Say("refused: %v", err)
			return
		}
		_ = sleepy(ctx)
	}
}

func sleepy(ctx context.Context) error { return pause(ctx, 50*time.Millisecond) }

// killing kills while orders go out.
func (c *CommandCampaign) killing(ctx context.Context, ordered <-chan struct{}) error {
	r := rand.New(rand.NewPCG(c.Seed, 9))
	for kill := range c.Kills {
		wait, dice := time.Duration(500+r.IntN(3000))*time.Millisecond, r.IntN(3)
		select {
		case <-time.After(wait):
		case <-ordered:
			c.Say("%d of %d kills: the commands are out", kill, c.Kills)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		what, err := c.stage.kill(ctx, kill, dice)
		c.Say("kill %d: %s", kill, what)
		if err != nil {
			return err
		}
	}
	return nil
}

// settle waits until nothing can change any more: all deadlines have passed,
// and every answer is acknowledged.
func (c *CommandCampaign) settle(ctx context.Context) error {
	last := time.Now()
	for _, o := range c.orders {
		if end := o.Deadline.Add(answerIn); end.After(last) {
			last = end
		}
	}
	if err := pause(ctx, time.Until(last)+time.Second); err != nil {
		return err
	}
	for end := time.Now().Add(2 * time.Minute); ; {
		owed := 0
		for _, car := range c.cars {
			owed += car.Owes()
		}
		if owed == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d answers are never acknowledged", owed)
		}
		if err := sleepy(ctx); err != nil {
			return err
		}
	}
}

// judge compares what each car knows with what ClickHouse has, which has what
// the log has.
func (c *CommandCampaign) judge(ctx context.Context, n *fleet.Node) (v Obedience, err error) {
	v = Obedience{Commands: len(c.orders), Refused: c.tried, States: map[string]int{}}
	for end := time.Now().Add(2 * time.Minute); ; {
		open, err := n.Query(ctx, "SELECT countIf(final), countIf(NOT final) FROM tacho.commands")
		if err == nil && open == fmt.Sprintf("%d\t0", v.Commands) || time.Now().After(end) {
			break
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return v, err
		}
	}
	text, err := n.Query(ctx, "SELECT id, state, final, JSONExtractInt(assumeNotNull(parameters), 'order') FROM tacho.commands FORMAT TSV")
	if err != nil {
		return v, err
	}
	states, orders := map[string]string{}, map[string]int{}
	for line := range strings.Lines(text) {
		var id, state, order string
		var final int
		if _, err := fmt.Sscan(line, &id, &state, &final, &order); err != nil {
			return v, fmt.Errorf("judge: %q: %w", line, err)
		}
		states[id] = state
		v.States[state]++
		if orders[order]++; orders[order] > 1 {
			v.Doubled++
		}
		if final == 0 {
			v.Open++
		}
	}
	byName, policy := map[string]*fleet.Obeyer{}, map[int]string{}
	for _, car := range c.cars {
		byName[car.Name] = car
	}
	for _, o := range c.orders {
		policy[o.N] = o.Policy
		state, there := states[o.ID]
		if !there {
			v.Lost++
			continue
		}
		received, answered := byName[o.Device].Knows(o.ID)
		if !truthful(state, received, answered) {
			if v.Untrue++; len(v.Lies) < 5 {
				v.Lies = append(v.Lies, fmt.Sprintf("command %s to %s (%s) is %s, received %v, answered %q", o.ID, o.Device, o.Policy, state, received, answered))
			}
		}
	}
	for _, car := range c.cars {
		v.Overdue += car.Late
		car.Executions(func(order, times int) {
			v.Executed++
			if times > 1 && (car.Dedupes || policy[order] == "now_or_never") {
				v.Twice++
			}
		})
	}
	return v, nil
}

// truthful tells whether a final state can be said of what the car knows: an
// answer is the outcome; without one, expired and cancelled mean that nothing
// was sent, and timed_out that nobody knows.
func truthful(state string, received bool, answered string) bool {
	switch {
	case answered != "":
		return state == answered
	case received:
		return state == "timed_out"
	default:
		return state == "timed_out" || state == "expired" || state == "cancelled"
	}
}
