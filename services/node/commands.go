package node

import (
	"context"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/projections/columnar"
	"github.com/tachograph/tachograph/projections/command"
	"github.com/tachograph/tachograph/projections/presence"
	"github.com/tachograph/tachograph/schemas"
	"github.com/tachograph/tachograph/services/commands"
	"github.com/tachograph/tachograph/services/dialect"
)

// startCommands folds the commands and gives them a way to the devices of this
// process. Every process has their deadlines pass.
func (n *Node) startCommands(ctx context.Context) (err error) {
	n.commands, err = commands.Open(ctx, commands.Config{
		Log: n.appends, Logger: n.logger, Metrics: n.metrics,
		Known:     func(device string) bool { _, ok := n.auth.Get(device); return ok },
		Elsewhere: n.roster.Elsewhere,
		Limits:    commands.Limits{Open: n.cfg.MaxCommands, InFlight: n.cfg.CommandsInFlight},
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

// commandTable makes ClickHouse's table of steps of the commands' facts.
func commandTable() (columnar.FactTable, error) {
	s, err := schemas.Own(command.TableName, schemas.Source{Format: schemas.FormatProto, Text: command.TableSchema})
	return columnar.FactTable{
		Kind: events.Command, Schema: s,
		Rows: func(e events.Event) ([]byte, error) { return command.TableRows(e.Stream.Name, e.Payload) },
	}, err
}

// views are those over the tables of facts.
func views() (all []columnar.View) {
	for _, views := range [][][3]string{command.Views, presence.Views} {
		for _, v := range views {
			all = append(all, columnar.View{Name: v[0], Comment: v[1], Query: v[2]})
		}
	}
	return all
}
