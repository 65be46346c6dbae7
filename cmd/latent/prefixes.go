package main

import (
	"strings"

	"github.com/alecthomas/kong"
)

// prefixed returns the arguments of latent bench serve with abbreviated flags,
// which users of SGLang's tool type, written out: --random-input, as long as no
// other flag begins so. Other commands want whole names.
func prefixed(app *kong.Application, args []string) []string {
	if len(args) < 2 || args[0] != "bench" || args[1] != "serve" {
		return args
	}
	var flags []*kong.Flag
	for _, leaf := range app.Leaves(false) {
		if strings.Join(commandPath(leaf), " ") == "bench serve" {
			for _, group := range leaf.AllFlags(false) {
				flags = append(flags, group...)
			}
		}
	}
	out := append([]string(nil), args...)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		name, value, given := strings.Cut(arg, "=")
		if !strings.HasPrefix(name, "--") {
			continue
		}
		if full := wholeName(flags, name[2:]); full != "" {
			out[i] = "--" + full
			if given {
				out[i] += "=" + value
			}
		}
	}
	return out
}

// wholeName returns the name of the only flag that begins like this, "" if there
// are several, or if it is a name already.
func wholeName(flags []*kong.Flag, begin string) string {
	if begin == "" {
		return ""
	}
	found := ""
	for _, f := range flags {
		match := ""
		for _, name := range append([]string{f.Name}, f.Aliases...) {
			if name == begin {
				return ""
			}
			if strings.HasPrefix(name, begin) {
				match = f.Name
			}
		}
		switch {
		case match == "":
		case found != "":
			return ""
		default:
			found = match
		}
	}
	return found
}
