package api_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// follow hands every event after a token to a service, for as long as the
// connection lasts, and returns the token to go on with.
func follow(base, admin, token string, handle func(device string, data json.RawMessage) error) (string, error) {
	query := url.Values{"follow": {"true"}, "type": {"position"}, "from": {token}}
	req, err := http.NewRequest(http.MethodGet, base+"/v1/events?"+query.Encode(), nil)
	if err != nil {
		return token, err
	}
	req.Header.Set("Authorization", "Bearer "+admin)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return token, err
	}
	defer resp.Body.Close()
	if start := resp.Header.Get("Tacho-Token"); start != "" {
		token = start // a place, where it was "now"
	}
	silence := time.AfterFunc(45*time.Second, func() { resp.Body.Close() }) // a heartbeat comes every 15 s
	defer silence.Stop()
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return token, err
		}
		silence.Reset(45 * time.Second)
		var e struct {
			ID, Device, Token string
			Data              json.RawMessage
			Error             *struct{ Code, Message string }
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return token, err
		}
		switch {
		case e.Error != nil: // history_truncated and unknown_position: waiting does not mend them
			return token, fmt.Errorf("%s: %s", e.Error.Code, e.Error.Message)
		case e.ID == "": // a heartbeat
			continue
		}
		if err := handle(e.Device, e.Data); err != nil {
			return token, err
		}
		token = e.Token // keep it where the result is kept, in the same transaction
	}
}

// A service reads history, stays for what comes, and goes on after the last
// event it has dealt with when the connection is lost.
func Example_follow() {
	token := "beginning"
	for {
		var err error
		token, err = follow("http://localhost:8080", "tacho_…", token, func(device string, data json.RawMessage) error {
			fmt.Println(device, string(data))
			return nil
		})
		fmt.Println("going on after", token, "because", err)
		time.Sleep(time.Second)
	}
}
