//go:build !linux

package engine

import "errors"

func confinable() error { return errors.New("only Linux can") }

func confine(string, string) error { return confinable() }
