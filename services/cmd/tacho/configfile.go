package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
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
//
// What is wrong in it waits until all of it was looked at: see fileProblems.
type configFile struct {
	values   kong.Resolver
	keys     []string
	problems []error
}

// fileProblems is all that is wrong in the file itself: keys that are no flag,
// values that are not of the flag's kind. The flags have their values by then.
type fileProblems struct{ error }

func (p fileProblems) Unwrap() error { return p.error }

var _ kong.Resolver = (*configFile)(nil)

// loadConfig is kong's ConfigurationLoader.
func loadConfig(r io.Reader) (kong.Resolver, error) {
	name := "config file"
	if f, ok := r.(*os.File); ok {
		name = f.Name()
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("%s is no YAML of keys and values: %w", name, err)
	}
	values, err := kongyaml.Loader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
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

// Validate refuses keys that are no flag of any command, and what Resolve found.
func (c *configFile) Validate(app *kong.Application) error {
	known := make(map[string]bool)
	_ = kong.Visit(app, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			known[flag.Name] = true
		}
		return next(nil)
	})
	problems := c.problems
	for _, key := range c.keys {
		if !known[key] {
			problems = append(problems, fmt.Errorf("config file: %s: there is no such flag", key))
		}
	}
	if len(problems) > 0 {
		return fileProblems{errors.Join(problems...)}
	}
	return nil
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
	if err == nil && value != nil && value != "" {
		scan := kong.Scan().PushTyped(value, kong.FlagValueToken)
		if wrong := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, reflect.New(flag.Target.Type()).Elem()); wrong != nil {
			c.problems = append(c.problems, fmt.Errorf("config file: %s: %w", flag.Name, wrong))
			return nil, nil
		}
	}
	if value == "" {
		return nil, err // as what check prints where nothing is set; kong makes the working directory of an empty path
	}
	return value, err
}
