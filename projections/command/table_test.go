package command

import "testing"

// The rows of a fact never change: what is in the table was made of them.
func TestTableRows(t *testing.T) {
	order := Order{ID: "c", Device: "d", Name: "unlock", Parameters: []byte(`{"door":2}`), Policy: NowOrNever, Deadline: 30, AnswerBy: 40}
	for want, f := range map[string]Fact{
		`[{"time":10,"command":"c","step":"queued","by":"admin","late":false,"name":"unlock","parameters":"{\"door\":2}","policy":"now_or_never","priority":0,"dry_run":false,"deadline":30,"answer_by":40}]`: {Type: "queued", At: 10, By: "admin", Order: &order},
		`[{"time":11,"command":"c","step":"sent","by":"gateway","attempt":1,"late":false}]`:                                                                                                                   {Type: "sent", At: 11, By: ByGateway, Attempt: 1},
		`[{"time":12,"command":"c","step":"failed","by":"device","code":"jam","reason":"door is jammed","late":true,"result":"{}"}]`:                                                                          {Type: "failed", At: 12, By: ByDevice, Code: "jam", Reason: "door is jammed", Late: true, Result: []byte(`{}`)},
		`[{"time":13,"command":"c","step":"refused","by":"device","reason":"no","late":false,"asked":"running"}]`:                                                                                             {Type: "refused", At: 13, By: ByDevice, Reason: "no", Asked: Running},
	} {
		payload, err := f.Payload()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := TableRows("c", payload); err != nil || string(got) != want {
			t.Errorf("%s, %v\nwant %s", got, err, want)
		}
	}
	if _, err := TableRows("c", []byte(`{}`)); err == nil {
		t.Error("nonsense has rows")
	}
}
