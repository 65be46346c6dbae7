package checkpoint

// GenerationConfig holds the sampling defaults of generation_config.json.
// Requests override them.
type GenerationConfig struct {
	Sample            bool    // do_sample; false asks for greedy decoding
	Temperature       float64 // 1 if absent
	TopP              float64 // 1 if absent
	TopK              int     // 0 (off) if absent
	RepetitionPenalty float64 // 1 (off) if absent
	EOS               []int   // eos_token_id, one or several
	BOS               int     // -1 if absent
}

// defaultGeneration is what a missing generation_config.json means.
func defaultGeneration() GenerationConfig {
	return GenerationConfig{Sample: true, Temperature: 1, TopP: 1, RepetitionPenalty: 1, BOS: -1}
}

// ParseGenerationConfig reads a generation_config.json. Missing keys keep their
// defaults, do_sample being true unless the file says otherwise.
func ParseGenerationConfig(data []byte) (GenerationConfig, error) {
	g := defaultGeneration()
	m, err := decodeObject(data)
	if err != nil {
		return g, err
	}
	o := object{m: m, err: &err}
	g.Sample = o.boolean(true, "do_sample")
	g.Temperature = o.number(1, "a number from 0 to 100", func(x float64) bool { return x >= 0 && x <= 100 }, "temperature")
	g.TopP = o.number(1, "a number in (0, 1]", func(x float64) bool { return x > 0 && x <= 1 }, "top_p")
	g.TopK = o.integer(0, -1, 1<<30, "top_k")
	if g.TopK < 0 { // some files write -1 for "off"
		g.TopK = 0
	}
	g.RepetitionPenalty = o.number(1, "a positive number", positive, "repetition_penalty")
	g.EOS = o.ids("eos_token_id")
	if ids := o.ids("bos_token_id"); len(ids) > 0 {
		g.BOS = ids[0]
	}
	return g, err
}
