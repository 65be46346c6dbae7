package demo

import (
	"embed"
	"io/fs"
)

//go:embed hf
var files embed.FS

//go:embed words.json
var words []byte

// Name is what the demo model is called on the wire.
const Name = "latent-demo"

// Checkpoint returns the demo model's Hugging Face folder: config.json,
// generation_config.json, tokenizer.json, tokenizer_config.json and
// model.safetensors.
func Checkpoint() fs.FS {
	sub, err := fs.Sub(files, "hf")
	if err != nil {
		panic(err) // the folder is embedded at build time
	}
	return sub
}

// Words returns words.json: word lists and sentence templates.
func Words() []byte { return words }
