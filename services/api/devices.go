package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/tachograph/tachograph/services/api/problem"
	"github.com/tachograph/tachograph/services/auth"
)

type device struct {
	ID        string     `json:"id"`
	Added     time.Time  `json:"added"`
	Connected bool       `json:"connected"`
	Since     *time.Time `json:"since,omitempty"`  // of connected being as it is
	Reason    string     `json:"reason,omitempty"` // why it is not connected any more
}

func (a *api) deviceOf(d auth.Device) device {
	s := a.roster.Get(d.ID)
	doc := device{ID: d.ID, Added: d.Added.UTC(), Connected: s.Connected, Reason: s.Reason}
	if !s.Since.IsZero() {
		doc.Since = &s.Since
	}
	return doc
}

type deviceToken struct {
	ID    string `json:"id"`
	Token string `json:"token"`
}

func (a *api) addDevice(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	body, err := readBody(w, r, deviceBytes)
	if err != nil {
		return err
	}
	var id string
	if err := decodeObject(body, map[string]*string{"id": &id}); err != nil {
		return err
	}
	if id == "" {
		return invalidBody(`field "id" is missing`, map[string]any{"field": "id"})
	}
	if err := addressable(id); err != nil {
		return err
	}
	token, err := a.devices.Add(r.Context(), id)
	if errors.Is(err, auth.ErrExists) {
		return problem.New(problem.DeviceExists, fmt.Sprintf("add device %s: device exists", id), map[string]any{"device": id})
	}
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/devices/"+url.PathEscape(id))
	return writeJSON(w, http.StatusCreated, deviceToken{id, token})
}

// addressable refuses what no device can be called, and the two names that
// every HTTP client and proxy takes out of a path (RFC 3986, 5.2.4).
func addressable(id string) error {
	if err := auth.ValidDeviceID(id); err != nil {
		return problem.New(problem.InvalidDeviceID, err.Error(), nil)
	}
	if id == "." || id == ".." {
		return problem.New(problem.InvalidDeviceID, fmt.Sprintf("device id %q: cannot stand in a URL", id), nil)
	}
	return nil
}

func (a *api) listDevices(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, "limit", "cursor", "connected")
	if err != nil {
		return err
	}
	p, err := q.page()
	if err != nil {
		return err
	}
	connected, err := q.flag("connected")
	if err != nil {
		return err
	}
	list := a.listed(p, func(d auth.Device) bool { return !q.has("connected") || a.roster.Get(d.ID).Connected == connected })
	answer := struct {
		Devices []device `json:"devices"`
		Next    string   `json:"next,omitempty"`
	}{Devices: []device{}}
	for i, d := range list {
		if i == p.limit {
			answer.Next = cursorAfter(list[i-1].ID)
			break
		}
		answer.Devices = append(answer.Devices, a.deviceOf(d))
	}
	return writeJSON(w, http.StatusOK, answer)
}

// listed returns a page and one more of the devices that are asked for.
func (a *api) listed(p page, asked func(auth.Device) bool) (list []auth.Device) {
	for after := p.after; len(list) <= p.limit; {
		some := a.devices.List(after, pageLimit)
		for _, d := range some {
			if asked(d) && len(list) <= p.limit {
				list = append(list, d)
			}
		}
		if len(some) < pageLimit {
			break
		}
		after = some[len(some)-1].ID
	}
	return list
}

func (a *api) getDevice(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, a.deviceOf(d))
}

func (a *api) removeDevice(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	if err := a.devices.Remove(r.Context(), d.ID); err != nil {
		return absent(d.ID, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) rotateToken(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	d, err := a.device(r)
	if err != nil {
		return err
	}
	token, err := a.devices.NewToken(r.Context(), d.ID)
	if err != nil {
		return absent(d.ID, err)
	}
	return writeJSON(w, http.StatusOK, deviceToken{d.ID, token})
}

// device returns the device that the path names.
func (a *api) device(r *http.Request) (auth.Device, error) {
	id := r.PathValue("id")
	if err := addressable(id); err != nil {
		return auth.Device{}, err
	}
	d, ok := a.devices.Get(id)
	if !ok {
		return auth.Device{}, absent(id, auth.ErrNotFound)
	}
	return d, nil
}

func absent(id string, err error) error {
	if errors.Is(err, auth.ErrNotFound) {
		return problem.New(problem.DeviceNotFound, fmt.Sprintf("device %s: no such device", id), map[string]any{"device": id})
	}
	return err
}
