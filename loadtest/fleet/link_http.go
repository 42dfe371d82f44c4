package fleet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
)

// httpLink posts each message on its own; as many are under way as the window
// has slots. What is sent is sent, so flush has nothing to do.
type httpLink struct {
	client     *http.Client
	url, token string
	ear        ear
	ctx        context.Context // ends with close
	stop       context.CancelFunc
	posts      sync.WaitGroup
}

// newPosts makes the client that all cars of a load share.
func newPosts(connections int) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.MaxIdleConns, t.MaxIdleConnsPerHost = nil, connections, connections
	return &http.Client{Transport: t, Timeout: ackPatience}
}

func openHTTP(ctx context.Context, addr, car, token string, client *http.Client, e ear) link {
	l := &httpLink{client: client, token: token, ear: e, url: "http://" + addr + "/v1/devices/" + url.PathEscape(car) + "/telemetry/position"}
	l.ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx)) // it outlives its opening
	return l
}

func (l *httpLink) send(slot int, payload []byte) error {
	body := bytes.Clone(payload)
	l.posts.Go(func() {
		refusal, err := l.post(body)
		if l.ctx.Err() != nil {
			return
		}
		if err != nil {
			l.ear.broken(err)
			return
		}
		l.ear.acknowledged(slot, refusal)
		l.ear.free(slot)
	})
	return nil
}

func (l *httpLink) post(body []byte) (refusal string, err error) {
	req, err := http.NewRequestWithContext(l.ctx, http.MethodPost, l.url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+l.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("status %d", resp.StatusCode), nil
	}
	return "", nil
}

func (l *httpLink) flush() error { return nil }

func (l *httpLink) close() {
	l.stop()
	l.posts.Wait()
}
