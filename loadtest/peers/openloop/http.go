package openloop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
)

// HTTP posts a device's messages one by one.
type HTTP struct {
	Client     *http.Client
	URL, Token string
}

// Publish posts one message.
func (h *HTTP) Publish(ctx context.Context, payload []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	req.Header.Set("Authorization", "Bearer "+h.Token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	switch {
	case resp.StatusCode < 300:
		return nil
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		return fmt.Errorf("%s: %s (%v)", resp.Status, b, err)
	default:
		return fmt.Errorf("%w: %s: %s", ErrRefused, resp.Status, b)
	}
}

// Close leaves the client's connections to the other devices.
func (h *HTTP) Close() {}
