package latent_test

import (
	"context"
	"fmt"
	"log"

	"latent"
	"latent/chat"
	"latent/pathway"
	"latent/sample"
)

// The embedded demo model answers a question, token by token.
func Example() {
	ctx := context.Background()
	engine, err := latent.Open(ctx, latent.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	greedy := sample.Defaults()
	greedy.Temperature = 0
	for delta, err := range engine.Generate(ctx, latent.Request{
		Messages: []chat.Message{{Role: chat.User, Content: "What is 47 + 38?"}},
		Sampling: &greedy,
	}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(delta.Text)
	}
	// Output:
	// 47 + 38 = 85
	// #### 85
}

// An answer's usage says which attention pathways computed it, and why.
func ExampleEngine_Generate() {
	ctx := context.Background()
	engine, err := latent.Open(ctx, latent.Options{AttentionPolicy: "mla"})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	greedy := sample.Defaults()
	greedy.Temperature = 0
	var last latent.Delta
	for delta, err := range engine.Generate(ctx, latent.Request{
		Prompt: "The code for the", Sampling: &greedy, MaxTokens: 3, Explain: true,
	}) {
		if err != nil {
			log.Fatal(err)
		}
		last = delta
	}
	fmt.Println(last.Finish, last.Usage.Prompt, "prompt tokens,", last.Usage.Completion, "generated")
	for _, d := range last.Usage.Decisions {
		fmt.Printf("%s %d-%d: %s, %s\n", d.Phase, d.From, d.To-1, d.Pathway, d.Reason)
	}
	// Output:
	// length 5 prompt tokens, 3 generated
	// prefill 0-4: mla, forced_policy
	// decode 5-6: mla, forced_policy
}

// A plan for a step that mixes prompts and decodes, on one of eight GPUs with
// DeepSeek-V3.2. Nothing but its configuration is needed. Planner.Explain prints
// the costs and what they were compared with, too.
func ExampleNewPlanner() {
	planner, source, err := latent.NewPlanner(
		latent.Options{Model: "configs/deepseek-v3.2.json"},
		latent.Machine{Flops: 680e12, Bandwidth: 4.2e12, Heads: 16},
	)
	if err != nil {
		log.Fatal(err)
	}
	step := []pathway.Extent{
		{New: 5000},
		{Prefix: 1900, New: 20},
		{Prefix: 3000, New: 1, Phase: pathway.Decode},
	}
	var plan pathway.Plan
	planner.Plan(step, &plan)
	fmt.Println("costs:", source)
	for _, s := range plan.Segments {
		prefix := step[s.Extent].Prefix
		fmt.Printf("sequence %d, positions %d-%d: %s, %s\n", s.Extent, prefix+s.From, prefix+s.To-1, s.Pathway, s.Reason)
	}
	// Output:
	// costs: estimate for the given rates
	// sequence 0, positions 0-2047: mha, short_context
	// sequence 0, positions 2048-4999: mha-masked, cheapest
	// sequence 1, positions 1900-1919: mla, long_prefix_few_rows
	// sequence 2, positions 3000-3000: mla-sparse, decode
}
