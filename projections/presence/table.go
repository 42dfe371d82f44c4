package presence

import (
	"encoding/json"
	"fmt"
)

// TableName is the ClickHouse table of presence events, TableSchema its columns
// beside those that every table has.
const (
	TableName   = "presence"
	TableSchema = `syntax = "proto3";
import "google/protobuf/timestamp.proto";

// One row for each beginning and end of a connection.
message Presence {
  google.protobuf.Timestamp time = 1; // by the gateway's clock
  string change = 2;                  // connected, disconnected, offline
  uint64 version = 3;                 // counts the device's presence events
  optional string session = 4;        // one connection
  optional string client = 5;         // its MQTT client id
  optional string gateway = 6;        // the process that had it
  optional string reason = 7;         // of disconnected
}
`
)

// TableRows renders a fact as a batch of samples of TableSchema, in JSON.
func TableRows(payload []byte) ([]byte, error) {
	f, err := ParseFact(payload)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal([]struct {
		Time    int64  `json:"time"`
		Change  string `json:"change"`
		Version uint64 `json:"version"`
		Session string `json:"session,omitempty"`
		Client  string `json:"client,omitempty"`
		Gateway string `json:"gateway,omitempty"`
		Reason  string `json:"reason,omitempty"`
	}{{f.At, f.Type, f.Version, f.Session, f.Client, f.Gateway, f.Reason}})
	if err != nil {
		return nil, fmt.Errorf("render row of presence: %w", err)
	}
	return b, nil
}

// Views are read over the table, each a name, what it is, and its query; {db}
// stands for the database.
var Views = [][3]string{
	{"presence_sessions", "each connection: from when to when, and why it ended", `
SELECT device, assumeNotNull(session) AS session, any(client) AS client, any(gateway) AS gateway,
    minOrNullIf(time, change = 'connected') AS connected, maxOrNullIf(time, change = 'disconnected') AS disconnected,
    anyIf(reason, change = 'disconnected') AS reason,
    date_diff('millisecond', connected, ifNull(disconnected, now64(6, 'UTC'))) / 1000 AS seconds
FROM {db}.presence WHERE session IS NOT NULL GROUP BY device, session`},
	{"presence_1h", "devices that flap, and their time online, by the hour in which a connection began", `
SELECT toStartOfHour(assumeNotNull(s.connected)) AS hour, device, count() AS connections, countIf(reason = 'keep_alive') AS keep_alives,
    countIf(reason = 'network') AS broken, countIf(reason = 'taken_over') AS taken_over, sum(seconds) AS seconds_online, avg(seconds) AS seconds_each
FROM {db}.presence_sessions AS s WHERE s.connected IS NOT NULL GROUP BY hour, device`},
}
