package dialect

// Native returns Tachograph's own convention: short topics, since the connection
// already says who speaks, and every byte costs on a mobile network.
func Native() *Dialect {
	return &Dialect{
		name: "native",
		up: []pattern{
			{levels: []level{{text: "telemetry"}, {is: message}}, route: Route{Kind: Telemetry}},
			{levels: []level{{text: "telemetry"}, {is: device}, {is: message}}, route: Route{Kind: Telemetry}},
		},
		down: []pattern{
			{levels: []level{{text: "commands"}, {is: any1}}},
			{levels: []level{{text: "commands"}, {is: device}, {is: any1}}},
			{levels: []level{{text: "shadow"}, {is: any1}}},
			{levels: []level{{text: "shadow"}, {is: device}, {is: any1}}},
		},
	}
}
