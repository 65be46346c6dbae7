package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// envPrefix begins the names of environment variables for flags.
const envPrefix = "LATENT"

// checkEnviron warns of variables that look like flags but are none, which
// would be ignored. It refuses what Kubernetes sets for a Service called latent.
func checkEnviron(model *kong.Application, environ []string) (warnings []string, err error) {
	known := map[string]bool{}
	for _, command := range append(model.Leaves(false), model.Node) {
		for _, group := range command.AllFlags(false) {
			for _, flag := range group {
				for _, name := range flag.Envs {
					known[name] = true
				}
			}
		}
	}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case !strings.HasPrefix(name, envPrefix+"_"):
		case !known[name]:
			warnings = append(warnings, fmt.Sprintf("the environment variable %s belongs to no flag and is ignored", name))
		case strings.HasPrefix(value, "tcp://"):
			err = fmt.Errorf("the environment variable %s is %s, which Kubernetes sets for a Service named latent: "+
				"give the pod enableServiceLinks: false, or the Service another name", name, value)
		}
	}
	return warnings, err
}
