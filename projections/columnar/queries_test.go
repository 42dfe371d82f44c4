package columnar

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tachograph/tachograph/events"
	"github.com/tachograph/tachograph/schemas"
)

// A drive is what a made-up car does, and what is known of it without a database.
type drive struct {
	device          string
	samples         int
	fastest, metres float64
	trips           int
	gaps            []int // seconds
}

// TestQuestions runs every question of QUERIES.md, as the analyst, on a made-up
// fleet, and holds the answers against what the fleet is known to have done.
func TestQuestions(t *testing.T) {
	long(t)
	b := newBench(t)
	w, stop := b.start(0, nil)
	control, err := New(Config{Log: b.log, Catalog: b.catalog, Partition: events.ControlPartition, Server: b.server, MaxAge: b.age, Views: AnalystViews(b.catalog.Schemas().All())})
	if err != nil {
		t.Fatal(err)
	}
	controlled := make(chan error, 1)
	go func() { controlled <- control.Run(t.Context()) }()
	user, password := b.engine.Analyst()
	askQuestions(b, Server{URL: b.server.URL, User: user, Password: password}, func() {
		b.await(w)
		b.await(control)
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// askQuestions sends what a fleet does to writers that await waits for, with all
// that follows from it, and asks as the analyst.
func askQuestions(b *bench, as Server, await func()) {
	t := b.t
	fleet := sendFleet(b)
	b.send("car-1", "position", `{"latitude":"north"}`)
	b.send("car-2", "position", `{"time":1700090000000,"latitude":52.5,"longitude":13.4,"speed":1,"wipers":true}`)
	b.send("car-2", "position", `{"time":1700090000000,"latitude":52.5,"longitude":13.4,"speed":1,"wipers":true}`)
	b.send("car-3", "position", fmt.Sprintf(`{"time":%d,"speed":2}`, time.Now().Add(48*time.Hour).UnixMilli()))
	await()

	text, err := os.ReadFile("QUERIES.md")
	if err != nil {
		t.Fatal(err)
	}
	questions := regexp.MustCompile("(?s)## (\\d+)\\. ([^\n]+)\n```sql\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(questions) != 20 {
		t.Fatalf("%d questions", len(questions))
	}
	analyst := &bench{t: t, server: as}
	answers := map[string]string{}
	for _, q := range questions {
		answers[q[1]] = analyst.query(strings.TrimSpace(q[3]))
	}

	one := fleet[0]
	expect := map[string]string{
		"2":  "", // all were heard of just now
		"3":  fmt.Sprintf("('car-1',%d,0) ('car-2',%d,1) ('car-3',%d,0)", fleet[0].samples+2*fleet[0].trips+1, fleet[1].samples+2*fleet[1].trips+2, fleet[2].samples+2*fleet[2].trips),
		"7":  fmt.Sprintf("('car-3','%s')", time.UnixMilli(driveStart+60_000*100).UTC().Format("2006-01-02 15:04:05.000000")),
		"11": "",
		"6":  "('car-1','2023-11-14',2,13.7) ('car-2','2023-11-14',1,6.9) ('car-3','2023-11-14',2,13.7)",
		"12": "('car-1',70) ('car-3',70) ('car-2',80)",
		"14": "('car-1') ('car-2') ('car-3')",
		"16": "('car-1','position','wrong_type',1,'decode sample 0 at byte 13: latitude: wrong_type')",
		"18": "('car-2','wipers',1)",
	}
	for number, want := range expect {
		if got := answers[number]; got != want {
			t.Errorf("question %s: %s\nwant %s", number, got, want)
		}
	}
	for _, d := range fleet {
		if d.device == "car-3" {
			continue // it has a sample from the future
		}
		if want := fmt.Sprintf("('%s',%v,", d.device, d.fastest); !strings.Contains(answers["4"], want) {
			t.Errorf("question 4: %s has no %s", answers["4"], want)
		}
	}
	for _, d := range fleet {
		if got := strings.Count(answers["5"], "'"+d.device+"'"); got != d.trips {
			t.Errorf("question 5: %d trips of %s, want %d: %s", got, d.device, d.trips, answers["5"])
		}
	}
	var km float64
	b.scan("SELECT sum(metres) FROM tacho.trips WHERE device = 'car-1'", &km)
	if math.Abs(km-one.metres) > one.metres/100 {
		t.Errorf("car-1 drove %.0f m, want %.0f", km, one.metres)
	}
	for _, seconds := range one.gaps {
		if !strings.Contains(answers["8"], fmt.Sprintf(",%d)", seconds)) {
			t.Errorf("question 8: no gap of %d s: %s", seconds, answers["8"])
		}
	}
	if got := strings.Count(answers["17"], "car-"); got != 1 || !strings.Contains(answers["17"], "car-3") {
		t.Errorf("question 17: %s", answers["17"])
	}
	if !strings.Contains(answers["14"], "car-1") || !strings.Contains(answers["1"], "car-2") || !strings.Contains(answers["12"], "car-1") || !strings.Contains(answers["20"], "events") {
		t.Errorf("14: %s\n1: %s\n12: %s\n20: %s", answers["14"], answers["1"], answers["12"], answers["20"])
	}
	if !strings.Contains(answers["9"], "'position'") || answers["13"] == "" || answers["19"] == "" || answers["15"] == "" || !strings.Contains(answers["10"], "car-3") {
		t.Errorf("9: %s\n13: %s\n19: %s\n15: %s\n10: %s", answers["9"], answers["13"], answers["19"], answers["15"], answers["10"])
	}

	src := schemas.Source{Format: schemas.FormatProto, Text: `syntax = "proto3"; message Tyre { optional int32 pressure = 1; }`}
	if _, _, err := b.catalog.Add(t.Context(), "tyre", src); err != nil {
		t.Fatal(err)
	}
	b.send("car-1", "tyre", `{"pressure":240}`)
	await()
	b.expect("SELECT device, signal, present, samples FROM tacho.coverage WHERE message = 'tyre'", "('car-1','pressure',1,1)")
}

const driveStart = 1_700_000_000_000 // epoch milliseconds

// sendFleet lets three cars drive: ignition on, a position every 10 s, ignition
// off; car-1 makes two trips with a silence between them, car-3's second has no end.
func sendFleet(b *bench) []drive {
	fleet := []drive{{device: "car-1", trips: 2}, {device: "car-2", trips: 1}, {device: "car-3", trips: 2}}
	for i := range fleet {
		d := &fleet[i]
		for trip := range d.trips {
			from := int64(driveStart + trip*60_000*100)
			b.send(d.device, "powertrain", fmt.Sprintf(`{"time":%d,"low_voltage_system_state":"ON","traction_battery_state_of_charge_displayed":%d}`, from, 80-10*trip))
			lat, lon := 52.5+float64(i)*0.001, 13.4
			for n := range 60 {
				speed := float64(20 + (n*7+i*13)%100)
				b.send(d.device, "position", fmt.Sprintf(`{"time":%d,"latitude":%.6f,"longitude":%.6f,"speed":%v}`, from+int64(n)*10_000, lat, lon, speed))
				d.samples++
				d.fastest = max(d.fastest, speed)
				if n < 59 {
					d.metres += haversine(lat, lon, lat+0.001, lon+0.0005)
				}
				lat, lon = lat+0.001, lon+0.0005
			}
			if d.device != "car-3" || trip == 0 {
				b.send(d.device, "powertrain", fmt.Sprintf(`{"time":%d,"low_voltage_system_state":"OFF"}`, from+600_000))
			}
		}
		if d.trips == 2 {
			d.gaps = []int{60*100 - 600}
		}
	}
	return fleet
}

func haversine(lat1, lon1, lat2, lon2 float64) float64 {
	const rad = math.Pi / 180
	a := math.Pow(math.Sin((lat2-lat1)*rad/2), 2) + math.Cos(lat1*rad)*math.Cos(lat2*rad)*math.Pow(math.Sin((lon2-lon1)*rad/2), 2)
	return 2 * 6_371_008.8 * math.Asin(math.Sqrt(a))
}

func (b *bench) scan(sql string, into any) {
	b.t.Helper()
	conn, err := b.server.Open()
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.QueryRow(b.t.Context(), sql).Scan(into); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}
