package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"latent/device/cpu/kern"
	"latent/device/cuda/driver"
)

// envPrefix begins the names of environment variables for flags.
const envPrefix = "LATENT"

// unknownVariables returns warnings of variables that look like flags but are
// none, which would be ignored. Those that are read elsewhere are known.
func unknownVariables(model *kong.Application, environ []string) []string {
	known := map[string]bool{kern.TierEnv: true, driver.SyncEnv: true}
	for _, command := range append(model.Leaves(false), model.Node) {
		for _, group := range command.AllFlags(false) {
			for _, flag := range group {
				for _, name := range flag.Envs {
					known[name] = true
				}
			}
		}
	}
	var warnings []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, envPrefix+"_") && !known[name] {
			warnings = append(warnings, fmt.Sprintf("the environment variable %s belongs to no flag and is ignored", name))
		}
	}
	return warnings
}
