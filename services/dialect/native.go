package dialect

import "sync"

// Native returns Tachograph's own convention: short topics, since the connection
// already says who speaks, and every byte costs on a mobile network. Shadows
// have AWS IoT's topics beside the short ones, so that its firmware and SDKs
// find them (AWS IoT Developer Guide, "Device Shadow MQTT topics").
func Native() *Dialect { return native() }

var native = sync.OnceValue(func() *Dialect {
	up := []Rule{
		{Topic: "telemetry/{message}", Kind: Telemetry},
		{Topic: "telemetry/{device}/{message}", Kind: Telemetry},
		{Topic: "commands/{name}/answer", Kind: Command, Type: "answer"},
		{Topic: "commands/{device}/{name}/answer", Kind: Command, Type: "answer"},
	}
	speaks := []Rule{
		{Topic: "commands/{name}", Kind: Command, Type: "command"},
		{Topic: "commands/{device}/{name}", Kind: Command, Type: "command"},
		{Topic: "cancel/{name}", Kind: Command, Type: "cancel"},
		{Topic: "cancel/{device}/{name}", Kind: Command, Type: "cancel"},
	}
	for _, base := range []string{"shadow", "shadow/name/{name}", "$aws/things/{device}/shadow", "$aws/things/{device}/shadow/name/{name}"} {
		for _, verb := range []string{"get", "update", "delete"} {
			up = append(up, Rule{Topic: base + "/" + verb, Kind: Shadow, Type: verb})
		}
		speaks = append(speaks, Rule{Topic: base + "/{message}", Kind: Shadow})
	}
	d, err := New("native", up, speaks, []string{"commands/*", "commands/{device}/*", "cancel/*", "cancel/{device}/*", "shadow/#", "$aws/things/{device}/shadow/#"})
	if err != nil {
		panic(err) // a mistake in the rules above, found by every test
	}
	return d
})
