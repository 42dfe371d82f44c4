package columnar

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tachograph/tachograph/schemas"
)

// A Shard is a server's place among those that the partitions of the log are
// divided among. The zero value is that of a server which has all of them.
type Shard struct{ Number, Of uint16 }

// several tells whether there are others.
func (s Shard) several() bool { return s.Of > 1 }

// Has tells whether a partition is written there. Where a partition is must never
// change: its rows are looked for, and its term is raised, at one server alone.
func (s Shard) Has(partition uint16) bool { return !s.several() || partition%s.Of == s.Number }

// Shards are the servers that the partitions of the log are divided among, in
// their order: one, or several that ask one another through Distributed tables.
type Shards struct {
	Servers []Server
	Cluster string // what the servers call themselves in their remote_servers; unused with one
}

// NewShards gives each server its place.
func NewShards(cluster string, servers ...Server) Shards {
	s := Shards{Servers: servers, Cluster: cluster}
	if len(servers) > 1 {
		for i := range servers {
			servers[i].Shard = Shard{Number: uint16(i), Of: uint16(len(servers))}
		}
	}
	return s
}

// Several tells whether there is more than one.
func (s Shards) Several() bool { return len(s.Servers) > 1 }

// Of returns the server that has a partition.
func (s Shards) Of(partition uint16) Server { return s.Servers[int(partition)%len(s.Servers)] }

// Front returns a server with the database through which all are asked.
func (s Shards) Front() Server { return s.Servers[0].front() }

// front is the server as whoever queries sees it.
func (s Server) front() Server {
	s.Shard = Shard{}
	return s
}

// aside is the database beside the server's own, where a replay builds.
func (s Server) aside() Server {
	s.Database, s.Shard = s.Name()+"_replay", Shard{}
	return s
}

// ErrOtherShards means that the tables were written by another number, or in
// another order, of servers: nothing must be added to them.
var ErrOtherShards = errors.New("the tables are divided among servers in another way")

// shardTable says in each shard's database which one it is.
const shardTable = "_shard"

var shardDefinition = table{shardTable, "which shard this is", "MergeTree ORDER BY shard", []schemas.Column{
	{Name: "shard", Type: "UInt16", Comment: "its number, from 0: the partitions with this remainder"},
	{Name: "shards", Type: "UInt16", Comment: "how many there are"},
	{Name: "id", Type: "String", Comment: "of this database"},
}, ""}

// settle gives a server its place, which it has for ever, or refuses the one it
// was given. A server alone has its tables in the database itself and no place.
//
// Errors: ErrOtherShards.
func (s Server) settle(ctx context.Context, conn clickhouse.Conn) error {
	front := s.front().Name()
	local := front + shardSuffix
	var engine string
	var divided uint64
	err := conn.QueryRow(ctx, "SELECT anyIf(engine, database = ? AND name = 'events'), countIf(database = ? AND name = ?) FROM system.tables WHERE database IN (?, ?)",
		front, local, shardTable, front, local).Scan(&engine, &divided)
	if err != nil {
		return fmt.Errorf("look for shards of %s: %w", front, err)
	}
	if !s.Shard.several() {
		if divided > 0 || engine == "Distributed" {
			return fmt.Errorf("%w: database %s of %s is one of several shards (remedy: name all of them with --clickhouse, in their order)", ErrOtherShards, front, s.URL)
		}
		return nil
	}
	if engine != "" && engine != "Distributed" {
		return fmt.Errorf("%w: database %s of %s was written as the only one (remedy: name that server alone, or another --database, which is filled from the log)", ErrOtherShards, front, s.URL)
	}
	if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+quote(local)); err != nil {
		return fmt.Errorf("create database %s: %w", local, err)
	}
	if err := shardDefinition.ensure(ctx, conn, local, nil); err != nil {
		return err
	}
	places, err := readPlaces(ctx, conn, local)
	if err == nil && len(places) == 0 {
		err = conn.Exec(ctx, fmt.Sprintf("INSERT INTO %s.%s SELECT %d, %d, toString(generateUUIDv4())", quote(local), quote(shardTable), s.Shard.Number, s.Shard.Of))
		if err == nil {
			places, err = readPlaces(ctx, conn, local)
		}
	}
	if err != nil {
		return fmt.Errorf("find out which shard %s is: %w", s.URL, err)
	}
	for _, p := range places {
		if p.Shard != s.Shard {
			return fmt.Errorf("%w: database %s of %s is shard %d of %d, not %d of %d (remedy: name the servers with --clickhouse as before, or another --database, which is filled from the log)",
				ErrOtherShards, front, s.URL, p.Number+1, p.Of, s.Shard.Number+1, s.Shard.Of)
		}
	}
	return nil
}

// A shardRow is a row of shardTable. Writers that start at once may note the same
// place several times.
type shardRow struct {
	Shard
	id string
}

func readPlaces(ctx context.Context, conn clickhouse.Conn, db string) (all []shardRow, err error) {
	rows, err := conn.Query(ctx, fmt.Sprintf("SELECT shard, shards, id FROM %s.%s ORDER BY shard, id", quote(db), quote(shardTable)))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p shardRow
		if err := rows.Scan(&p.Number, &p.Of, &p.id); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, rows.Err()
}

// names lists servers for people.
func (s Shards) names() string {
	var all []string
	for _, server := range s.Servers {
		all = append(all, server.URL)
	}
	return strings.Join(all, ", ")
}
