package api

import (
	"net/http"
	"strings"

	"github.com/tachograph/tachograph/services/api/problem"
)

// admin lets pass only who shows the admin token.
func (a *api) admin(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		token, err := bearer(r)
		if err != nil {
			return err
		}
		if !a.keys.Check(token) {
			return a.stranger(token, "the admin token")
		}
		return h(w, r)
	}
}

// asker lets pass the admin and the analysts.
func (a *api) asker(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		token, err := bearer(r)
		if err != nil {
			return err
		}
		if !a.keys.Check(token) && !a.analyst.Check(token) {
			return a.stranger(token, "the analyst's or the admin token")
		}
		return h(w, r)
	}
}

// own lets pass the admin and the device that the path names. What a stranger
// is told does not depend on whether the device exists.
func (a *api) own(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		token, err := bearer(r)
		if err != nil {
			return err
		}
		if !a.keys.Check(token) && !a.devices.Authenticate(r.PathValue("id"), token) {
			return a.stranger(token, "this device's or the admin token")
		}
		return h(w, r)
	}
}

// stranger refuses a token that does not open this call: a device's or the
// analyst's, which are known and open their own, or nobody's.
func (a *api) stranger(token, wanted string) error {
	if a.analyst.Check(token) {
		return problem.New(problem.Forbidden, "authenticate: the analyst's token was sent, this call wants "+wanted, nil)
	}
	if _, known := a.devices.Owner(token); known {
		return problem.New(problem.Forbidden, "authenticate: a device's token was sent, this call wants "+wanted, nil)
	}
	return problem.New(problem.Unauthenticated, "authenticate: the token is not "+wanted, nil)
}

// bearer returns the request's token. A second Authorization header is
// refused: a proxy before us may have looked at the other one.
func bearer(r *http.Request) (string, error) {
	all := r.Header.Values("Authorization")
	if len(all) == 0 {
		return "", problem.New(problem.Unauthenticated, "authenticate: no token was sent", nil)
	}
	if len(all) > 1 {
		return "", problem.New(problem.Unauthenticated, "authenticate: more than one Authorization header", nil)
	}
	scheme, token, _ := strings.Cut(all[0], " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", problem.New(problem.Unauthenticated, "authenticate: the Authorization header holds no bearer token", nil)
	}
	return token, nil
}
