package main

import "context"

type serveCommand struct {
	modelFlags
}

func (c *serveCommand) Run(ctx context.Context) error { return nil }
