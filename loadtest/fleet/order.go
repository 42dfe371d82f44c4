package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// An Order is a command that a node has taken.
type Order struct {
	N        int    // counts orders; it travels in the parameters
	Device   string // whose it is
	ID       string // that the node gave it
	Policy   string
	Deadline time.Time
}

// Order asks a node to send a command, once. The same n is the same request, so
// that it can be asked again when nobody knows whether it was heard. A status
// of 0 means that there was no answer.
func (n *Node) Order(ctx context.Context, o *Order, within, answer time.Duration) (status int, err error) {
	token, err := secretOf(n.AdminTokenFile)
	if err != nil {
		return 0, err
	}
	body, err := json.Marshal(map[string]any{
		"name": "count", "parameters": map[string]int{"order": o.N}, "policy": o.Policy,
		"deadline": within.String(), "answer_by": (within + answer).String(),
	})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.HTTP+"/v1/devices/"+url.PathEscape(o.Device)+"/commands", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", fmt.Sprintf("order-%d", o.N))
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	var says struct {
		ID       string
		Deadline time.Time
	}
	if resp.StatusCode/100 != 2 {
		return resp.StatusCode, fmt.Errorf("order %d to %s: %s: %.300s", o.N, o.Device, resp.Status, b)
	}
	if err := json.Unmarshal(b, &says); err != nil {
		return 0, err
	}
	o.ID, o.Deadline = says.ID, says.Deadline
	return resp.StatusCode, nil
}

// Cancel asks for a command to be given up. Whether it is shows later.
func (n *Node) Cancel(ctx context.Context, o *Order) error {
	_, err := n.call(ctx, http.MethodDelete, "/v1/devices/"+url.PathEscape(o.Device)+"/commands/"+url.PathEscape(o.ID), nil, nil)
	return err
}

// Connected returns how many devices the node says are connected, a thousand at
// the most.
func (n *Node) Connected(ctx context.Context) (int, error) {
	var page struct{ Devices []struct{} }
	_, err := n.call(ctx, http.MethodGet, "/v1/devices?connected=true&limit=1000", nil, &page)
	return len(page.Devices), err
}
