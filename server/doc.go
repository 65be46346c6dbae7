// Package server answers HTTP requests in the dialect that clients of OpenAI,
// SGLang and vLLM speak: chat and raw completions, streamed or whole, models,
// health and metrics.
//
// The way of a request: [Server.Handler] routes it (route.go) to a handler as an
// exchange, which carries its id, its status and what the log will say of it.
// The body becomes fields (fields.go), the fields a generation and its prompts
// (generation.go, chat.go, completions.go). answer.go submits the prompts to the
// engine and turns its events into one response or, with sse.go, into a stream.
// Whatever goes wrong is a failure (failure.go) with the status, type and code
// that clients know.
//
// A [Server] exists before its engine, so that it can say that the model is
// loading, and outlives the engine's last request when it drains (state.go,
// serve.go). Its metrics are a registry of its own of the Prometheus client:
// what happens is counted when it does (metrics.go, metrics_attention.go), what
// the engine counts is read when asked for (metrics_read.go).
//
// The rule for fields is: what changes a result is honoured or refused, what
// does not is accepted, what is unknown is ignored and listed in the header
// X-Latent-Ignored.
//
// The package computes nothing: tokens, text, sampling and attention are the
// engine's, reached through package latent. It imports latent, engine, chat,
// pathway and sample.
package server
