package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// choices are the flags that take one of a few words. kong would refuse the
// first wrong one while it parses; here they wait, so that every problem of a
// configuration is told at once.
type choices map[string][]string

// take moves the choices of all commands out of kong's hands. It runs once the
// model is built, when help has its texts already.
func (c choices) take(k *kong.Kong) error {
	return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok && flag.Enum != "" {
			c[flag.Name] = flag.EnumSlice()
			flag.Enum, flag.Tag.Enum = "", ""
		}
		return next(nil)
	})
}

// check returns every flag of a command that is none of its choices.
func (c choices) check(flags []*kong.Flag) error {
	var problems []error
	for _, flag := range flags {
		allowed, limited := c[flag.Name]
		if !limited {
			continue
		}
		value := reflect.Indirect(flag.Target)
		words := []string{fmt.Sprint(value.Interface())}
		if value.Kind() == reflect.Slice {
			words = words[:0]
			for i := range value.Len() {
				words = append(words, fmt.Sprint(value.Index(i).Interface()))
			}
		}
		for _, word := range words {
			if !slices.Contains(allowed, word) {
				problems = append(problems, fmt.Errorf("--%s: %q is none of %s", flag.Name, word, strings.Join(allowed, ", ")))
			}
		}
	}
	return errors.Join(problems...)
}

// validate is check and the configuration's own.
func (f nodeFlags) validate(c choices, parsed *kong.Context) error {
	return errors.Join(c.check(parsed.Selected().Flags), f.config().Validate())
}
