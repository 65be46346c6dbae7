package kernels

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

//go:embed *.cu*
var files embed.FS

// prelude is what every unit begins with.
var prelude = []string{"common.cuh", "wgmma.cuh"}

// Unit is a source file compiled with a set of macros.
type Unit struct {
	Name    string
	File    string
	Defines []string // "MACRO=VALUE"
	Hot     bool     // on a hot path: its kernels must not spill
}

var directive = regexp.MustCompile(`(?m)^//latent:unit (.*)$`)

// Units lists the units that the embedded sources declare, by name.
func Units() ([]Unit, error) {
	names, err := fs.Glob(files, "*.cu")
	if err != nil {
		return nil, err
	}
	var units []Unit
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		found := directive.FindAllSubmatch(text, -1)
		if len(found) == 0 {
			return nil, fmt.Errorf("kernels: %s declares no unit", name)
		}
		for _, m := range found {
			words := strings.Fields(string(m[1]))
			if len(words) == 0 {
				return nil, fmt.Errorf("kernels: %s declares a unit without a name", name)
			}
			u := Unit{Name: words[0], File: name}
			for _, w := range words[1:] {
				switch {
				case w == "hot":
					u.Hot = true
				case strings.Contains(w, "="):
					u.Defines = append(u.Defines, w)
				default:
					return nil, fmt.Errorf("kernels: %s: unit %s: %q is neither hot nor MACRO=VALUE", name, u.Name, w)
				}
			}
			units = append(units, u)
		}
	}
	slices.SortFunc(units, func(a, b Unit) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(units); i++ {
		if units[i].Name == units[i-1].Name {
			return nil, fmt.Errorf("kernels: unit %s is declared by %s and %s", units[i].Name, units[i-1].File, units[i].File)
		}
	}
	return units, nil
}

var include = regexp.MustCompile(`^#include "([^"]+)"\s*$`)

// Source returns the unit's text, complete.
func (u Unit) Source() (string, error) {
	var b strings.Builder
	seen := map[string]bool{}
	for _, name := range append(slices.Clone(prelude), u.File) {
		if err := expand(&b, name, seen); err != nil {
			return "", fmt.Errorf("kernels: unit %s: %w", u.Name, err)
		}
	}
	return b.String(), nil
}

// expand writes a file with its includes in place, each file once.
func expand(b *strings.Builder, name string, seen map[string]bool) error {
	if seen[name] {
		return nil
	}
	seen[name] = true
	text, err := files.ReadFile(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "#line 1 %q\n", name)
	for i, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "#pragma once") {
			line = ""
		}
		if m := include.FindStringSubmatch(line); m != nil {
			if err := expand(b, m[1], seen); err != nil {
				return err
			}
			fmt.Fprintf(b, "#line %d %q\n", i+2, name)
			continue
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return nil
}

// Architecture is the one that kernels are compiled for: Hopper with its own
// instructions (wgmma, setmaxnreg).
const Architecture = "sm_90a"

// Options returns the compiler's options for the unit.
func (u Unit) Options() []string {
	opts := []string{"--gpu-architecture=" + Architecture, "--std=c++20", "-default-device", "-lineinfo", "--ptxas-options=-v"}
	for _, d := range u.Defines {
		opts = append(opts, "-D"+d)
	}
	return opts
}
