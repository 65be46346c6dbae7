// Package model is the transformer with multi-head latent attention and
// DeepSeek sparse attention, written once over the operations of package
// device: DeepSeek-V3.2 and its relatives V3, V2, Kimi-K2, GLM-5 and
// GLM-4.7-Flash differ only in their configuration.
//
// The way through a forward pass: [Model.Forward] (forward.go) embeds tokens,
// runs the layers and the head; attention.go projects, stores the cache records
// and runs the pathways that the batch's plan chose; indexer.go scores and
// selects; mlp.go holds the dense MLP and the mixture of experts; schedule.go
// turns a plan into the runs of query rows that the device's operations take,
// once per batch; load.go reads weights; calibrate.go times the pathways.
//
// It imports device, pathway and checkpoint. It schedules nothing, owns no
// request and makes no plan.
package model
