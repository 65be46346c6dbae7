package main

import (
	"latent"
)

// modelFlags choose a model and how it runs. Names and aliases are those that
// users of SGLang and vLLM know.
type modelFlags struct {
	Model             string `help:"Folder with config.json, *.safetensors and tokenizer.json. Default: the embedded demo model." aliases:"model-path" placeholder:"DIR" group:"Model"`
	LoadFormat        string `help:"auto reads the weights; dummy makes up random ones from the configuration alone, to measure speed." enum:"auto,dummy" default:"auto" group:"Model"`
	JSONModelOverride string `name:"json-model-override-args" help:"A JSON object laid over config.json." placeholder:"JSON" group:"Model"`
	RandomSeed        uint64 `help:"Seed of dummy weights." default:"0" group:"Model"`
	DType             string `name:"dtype" help:"Arithmetic: auto is the checkpoint's, bfloat16 on a GPU, which has no float32. Weights stored in a narrower type stay in it." enum:"auto,float32,bfloat16" default:"auto" group:"Model"`
	KVCacheDType      string `name:"kv-cache-dtype" help:"Format of the attention cache: auto is that of the arithmetic." enum:"auto,float32,bfloat16,fp8_e4m3" default:"auto" group:"Model"`

	AttentionPolicy   string `help:"How attention pathways are chosen: adaptive takes the cheapest exact one for every run of rows; threshold is one choice per batch by length; mla and mha are fixed." enum:"adaptive,threshold,mla,mha" default:"adaptive" group:"Attention"`
	SeqLenThreshold   int    `name:"nsa-seq-len-threshold" aliases:"dsa-seq-len-threshold" help:"Threshold of --attention-policy threshold, in tokens. Default: the model's index_topk." placeholder:"N" group:"Attention"`
	AllowApproximate  bool   `help:"Permit a threshold above index_topk: dense attention where the model would select." group:"Attention"`
	Deterministic     bool   `help:"Make every answer independent, bit for bit, of the batch, of chunking and of cache hits. CPU only." group:"Attention"`
	Calibration       string `help:"File with measured costs of attention, or builtin for a table or an estimate. Default: what latent calibrate left for this machine, if anything, else builtin." placeholder:"FILE|builtin" group:"Attention"`
	MHAWorkspaceBytes int64  `name:"mha-workspace-bytes" help:"Bound on expanded keys and values. Default: 256 MiB, on a GPU 1 GiB." placeholder:"N" group:"Attention"`

	Device             string  `help:"Where to compute: auto takes the GPU if there is one of compute capability 9.0 and CUDA's libraries are found, else the CPU." enum:"auto,cpu,cuda" default:"auto" group:"Machine"`
	CUDAPath           string  `name:"cuda-path" help:"Folder to look for CUDA's libraries in before all others: a toolkit, or one with the libraries." placeholder:"DIR" group:"Machine"`
	Threads            int     `help:"CPU threads. Default: all." placeholder:"N" group:"Machine"`
	ContextLength      int     `aliases:"max-model-len" help:"Bound on the tokens of a sequence. Default: what the model allows." placeholder:"N" group:"Machine"`
	MaxRunningRequests int     `help:"Bound on sequences in a step. Default: 64, on a GPU 256." placeholder:"N" group:"Machine"`
	ChunkedPrefillSize int     `help:"Prompt tokens computed in a step. Default: 512, on a GPU 8192." placeholder:"N" group:"Machine"`
	MaxTotalTokens     int     `help:"Size of the attention cache in tokens. Default: what the memory has room for." placeholder:"N" group:"Machine"`
	MemFractionStatic  float64 `help:"Share of the memory for weights, workspace and cache. Default: 0.7, on a GPU 0.88." placeholder:"F" group:"Machine"`
}

// options returns the flags as options of the Go API. progress is told what
// loading waits for; nil for commands that do not load a model.
func (f *modelFlags) options(progress func(line string)) latent.Options {
	return latent.Options{
		Progress: progress,
		Model:    f.Model, LoadFormat: f.LoadFormat, Seed: f.RandomSeed, ConfigOverride: f.JSONModelOverride,
		Device: f.Device, CUDAPath: f.CUDAPath, Threads: f.Threads, DType: f.DType, KVCacheDType: f.KVCacheDType,
		AttentionPolicy: f.AttentionPolicy, SeqLenThreshold: f.SeqLenThreshold, AllowApproximate: f.AllowApproximate,
		Deterministic: f.Deterministic, Calibration: f.Calibration, MHAWorkspaceBytes: f.MHAWorkspaceBytes,
		MaxContext: f.ContextLength, MaxRunning: f.MaxRunningRequests, ChunkedPrefillSize: f.ChunkedPrefillSize,
		MaxTotalTokens: f.MaxTotalTokens, MemFractionStatic: f.MemFractionStatic,
	}
}

// flagOf names the flag of a field of latent.Options or engine.Request, for
// error messages; "" if it has none.
func flagOf(field string) string {
	return map[string]string{
		"Model": "--model", "LoadFormat": "--load-format", "ConfigOverride": "--json-model-override-args",
		"DType": "--dtype", "KVCacheDType": "--kv-cache-dtype",
		"AttentionPolicy": "--attention-policy", "SeqLenThreshold": "--nsa-seq-len-threshold",
		"Calibration": "--calibration", "MHAWorkspaceBytes": "--mha-workspace-bytes",
		"Device": "--device", "CUDAPath": "--cuda-path", "Deterministic": "--deterministic", "Threads": "--threads", "MaxContext": "--context-length", "MaxRunning": "--max-running-requests",
		"MaxQueued": "--max-queued-requests", "ChunkedPrefillSize": "--chunked-prefill-size",
		"MaxTotalTokens": "--max-total-tokens", "MemFractionStatic": "--mem-fraction-static",
		"Stop": "--stop", "MaxTokens": "--max-tokens",
	}[field]
}
