// Package demo embeds the demo model: a real DeepSeek-V3.2 at pocket size,
// trained to find codes in long texts, follow variables and add small numbers.
// Its Hugging Face folder is what latent serves when no model is named, and the
// ground of the retrieval evaluations.
//
// hf holds the checkpoint, words.json the word lists and templates that both
// the training recipe (train) and the task generators (package tasks) read, so
// that the two cannot drift apart.
//
// It imports nothing of this module.
package demo
