package main

import (
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"

	"github.com/tachograph/tachograph/services/node"
)

// CheckCommand is tacho check. It takes the flags of tacho serve.
type CheckCommand struct {
	Node nodeFlags `embed:""`
}

// nodeFlags is node.Config without its method Validate, which kong would call
// while it parses: before there is anything to print.
type nodeFlags node.Config

func (f nodeFlags) config() node.Config { return node.Config(f) }

// Run prints the configuration that serve would run with, as a file that
// --config takes, secrets masked; then every problem in it.
func (c *CheckCommand) Run(out *output, parsed *kong.Context, limits choices) error {
	for _, flag := range parsed.Selected().Flags {
		if flag.Name == "help" || flag.Name == "config" {
			continue
		}
		line, err := yaml.Marshal(map[string]any{flag.Name: shown(flag)})
		if err != nil {
			return fmt.Errorf("print %s: %w", flag.Name, err)
		}
		if _, err := out.w.Write(line); err != nil {
			return err
		}
	}
	if err := c.Node.validate(limits, parsed); err != nil {
		return failed(exitUsage, "", "%w", err)
	}
	out.note("the configuration has no problem")
	return nil
}

const masked = "xxxxx" // as url.URL.Redacted has it

// shown is a flag's value as the file would hold it. What is secret by its name,
// and passwords inside URLs, are masked.
func shown(flag *kong.Flag) any {
	value := flag.Target.Interface()
	if value == nil || reflect.ValueOf(value).IsZero() {
		if d, ok := value.(time.Duration); ok {
			return d.String()
		}
		return value
	}
	for _, word := range []string{"password", "token", "secret", "credential"} {
		if strings.Contains(flag.Name, word) && !strings.HasSuffix(flag.Name, "-file") {
			return masked
		}
	}
	switch value := value.(type) {
	case string:
		return withoutPassword(value)
	case []string:
		all := make([]string, len(value))
		for i, s := range value {
			all[i] = withoutPassword(s)
		}
		return all
	case fmt.Stringer:
		return withoutPassword(value.String())
	}
	return value
}

func withoutPassword(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s
	}
	if _, has := u.User.Password(); has { // also of no user at all
		u.User = url.UserPassword(u.User.Username(), masked)
	}
	q := u.Query()
	for name := range q {
		if strings.Contains(strings.ToLower(name), "password") {
			q.Set(name, masked)
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}
