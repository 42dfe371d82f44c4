package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tachograph/tachograph/services/node"
)

// A Place says where the node is that a command talks to.
type Place struct {
	Data  string `help:"Data folder of the running node; its addresses and tokens are read there." default:"data" type:"path" placeholder:"DIR"`
	URL   string `help:"Address of a node's HTTP interface, instead of what the data folder says." placeholder:"URL"`
	Token string `help:"Token to show, instead of the admin token in the data folder." placeholder:"TOKEN"`
}

const startHint = "start one with: tacho serve --data %s   (or name another with --data DIR, or --url and --token)"

// addresses reads where the node of the data folder listens. A file that a dead
// process left behind is not believed.
func (p *Place) addresses() (node.Addresses, error) {
	var a node.Addresses
	file := filepath.Join(p.Data, "addresses.json")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return a, failed(exitUnreachable, fmt.Sprintf(startHint, p.Data), "find node: no node is running in %s", p.Data)
	}
	if err != nil {
		return a, failed(exitUnreachable, "run it as the user that runs the node", "find node: %w", err)
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, failed(exitUnreachable, "restart the node; it writes the file anew", "find node: read %s: %w", file, err)
	}
	if a.PID > 0 && errors.Is(syscall.Kill(a.PID, 0), syscall.ESRCH) {
		return a, failed(exitUnreachable, fmt.Sprintf(startHint, p.Data),
			"find node: no node is running in %s: process %d has ended", p.Data, a.PID)
	}
	return a, nil
}

// secret reads a file that holds one password or token.
func (p *Place) secret(what, file string) (string, error) {
	if file == "" {
		return "", failed(exitDenied, "it may run another role; see tacho check", "read %s: the node of %s has none", what, p.Data)
	}
	if !filepath.IsAbs(file) {
		if inData := filepath.Join(p.Data, file); exists(inData) {
			file = inData
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", failed(exitDenied, "run it as the user that runs the node", "read %s: %w", what, err)
	}
	return strings.TrimSpace(string(text)), nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// web returns base URL and token of the node's HTTP interface.
func (p *Place) web() (url, token string, err error) {
	url, token = p.URL, p.Token
	if url == "" {
		a, err := p.addresses()
		if err != nil {
			return "", "", err
		}
		if a.HTTP == "" {
			return "", "", failed(exitUnreachable, "talk to a process that runs the role api", "find node: the node of %s has no HTTP interface", p.Data)
		}
		url = a.HTTP
		if token == "" {
			if token, err = p.secret("admin token", a.AdminTokenFile); err != nil {
				return "", "", err
			}
		}
	}
	if token == "" {
		return "", "", failed(exitUsage, "give --token or set TACHO_TOKEN", "find node: --url is given without a token")
	}
	return withScheme(url, "http"), token, nil
}

func withScheme(address, scheme string) string {
	if !strings.Contains(address, "://") {
		address = scheme + "://" + address
	}
	return strings.TrimRight(address, "/")
}
