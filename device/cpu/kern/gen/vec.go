package main

func (t *isa) vectors()   {}
func (t *isa) transpose() {}
