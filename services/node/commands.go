package node

import (
	"context"

	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/dialect"
)

// startCommands folds the commands and gives them a way to the devices of this
// process. Every process has their deadlines pass.
func (n *Node) startCommands(ctx context.Context) (err error) {
	n.commands, err = commands.Open(ctx, commands.Config{
		Log: n.appends, Logger: n.logger, Metrics: n.metrics,
		Known:  func(device string) bool { _, ok := n.auth.Get(device); return ok },
		Limits: commands.Limits{Open: n.cfg.MaxCommands},
	})
	if err != nil {
		return err
	}
	if n.gateway != nil {
		n.gateway.Serve(dialect.Command, n.commands)
		n.commands.Send(n.gateway)
	}
	n.run("commands", n.commands.Run)
	return nil
}
