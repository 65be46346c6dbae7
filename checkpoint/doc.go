// Package checkpoint reads models: config.json in both common spellings becomes
// a typed [Config], safetensors files become mapped [Tensor] values with their
// FP8 block scales, and a configuration alone can be filled with seeded random
// weights ([Dummy]).
//
// [Open] reads a Hugging Face folder as it is, [OpenFS] any fs.FS such as an
// embedded one. Everything a file says is distrusted: sizes are bounded before
// memory is taken, and an error names the file, the key or tensor, what was
// found and what was expected.
//
// What this package is not: it computes nothing but the tables that follow from
// the configuration alone (RoPE frequencies, sizes), knows no tokenizer, and
// does not convert weights; a device lays them out. It imports package device
// (for number formats), golang.org/x/sys and the standard library.
package checkpoint
