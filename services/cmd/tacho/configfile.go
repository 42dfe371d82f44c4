package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	kongyaml "github.com/alecthomas/kong-yaml"
	"gopkg.in/yaml.v3"
)

// A configFile gives flags the values of a YAML file whose keys are the flags'
// names. A flag on the command line is stronger than a variable of the
// environment, and that stronger than the file. Keys that are no flag are
// refused: a misspelt limit is no limit.
type configFile struct {
	values kong.Resolver
	keys   []string
}

var _ kong.Resolver = (*configFile)(nil)

// loadConfig is kong's ConfigurationLoader.
func loadConfig(r io.Reader) (kong.Resolver, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	values, err := kongyaml.Loader(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	return &configFile{values: values, keys: leaves(document, "")}, nil
}

// leaves lists the keys of a document as flags are called: a: {b: 1} is a-b.
func leaves(document map[string]any, prefix string) []string {
	var keys []string
	for key, value := range document {
		if inner, ok := value.(map[string]any); ok {
			keys = append(keys, leaves(inner, prefix+key+"-")...)
		} else {
			keys = append(keys, prefix+key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Validate refuses keys that are no flag of any command.
func (c *configFile) Validate(app *kong.Application) error {
	known := make(map[string]bool)
	_ = kong.Visit(app, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			known[flag.Name] = true
		}
		return next(nil)
	})
	var problems []error
	for _, key := range c.keys {
		if !known[key] {
			problems = append(problems, fmt.Errorf("config file: %s: there is no such flag", key))
		}
	}
	return errors.Join(problems...)
}

// Resolve finds the flag's value, whichever command it belongs to.
func (c *configFile) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	if !slices.ContainsFunc(c.keys, func(key string) bool { return key == flag.Name || strings.HasPrefix(key, flag.Name+"-") }) {
		return nil, nil
	}
	value, err := c.values.Resolve(ctx, &kong.Path{App: ctx.Model}, flag)
	if value == "" {
		return nil, err // as what check prints where nothing is set; kong makes the working directory of an empty path
	}
	return value, err
}
