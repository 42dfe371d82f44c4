package main

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestCommandLine parses what the README, the Makefile and the help name.
func TestCommandLine(t *testing.T) {
	for line, good := range map[string]bool{
		"run --tacho bin/tacho --data data --speed 60 --demo=1":                        true,
		"run --tacho bin/tacho --data data --speed 60 --demo=0":                        true,
		"run --data d -- --ports auto --durability os":                                 true,
		"demo --speed 600 --loop":                                                      true,
		"load --protocol mqtt5 --qos 2 --cars 10 --rate 100 --duration 1s --no-verify": true,
		"load --protocol amqp":                                                         false,
		"load --qos 3":                                                                 false,
		"verify --data d --ledger x.tsv --patience 2m --json":                          true,
		"fault --runs 3 --seed 9 --messages 100":                                       true,
		"parts --types 1,10,100 --for 30m --rate 500 --at-once --json":                 true,
		"delay --shares 10,50,90 --for 30s --durability os":                            true,
		"delay --durability none":                                                      false,
		"bench --only json,protobuf,layouts,decode --log 300000":                       true,
		"bench --telegraf no-such-file":                                                false,
		"bench --count 1":                                                              true,
		"check-data":                                                                   true,
		"":                                                                             false,
	} {
		var c commands
		k, err := kong.New(&c, kong.Name("fleet"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Parse(strings.Fields(line)); (err == nil) != good {
			t.Errorf("fleet %s: %v", line, err)
		}
	}
}
