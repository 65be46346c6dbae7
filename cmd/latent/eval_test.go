package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFlagsOfAnArm lays an arm's flags over the command's.
func TestFlagsOfAnArm(t *testing.T) {
	base := modelFlags{Model: "m", KVCacheDType: "bfloat16", Threads: 3}
	got, err := base.with([]string{"--kv-cache-dtype=fp8_e4m3", "--threads", "0", "--deterministic", `--json-model-override-args={"index_topk":64}`})
	want := modelFlags{Model: "m", KVCacheDType: "fp8_e4m3", Deterministic: true, JSONModelOverride: `{"index_topk":64}`}
	if diff := cmp.Diff(&want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got): %s", err, diff)
	}
	if base.KVCacheDType != "bfloat16" {
		t.Error("the command's own flags were changed")
	}
	if _, err := base.with([]string{"--nonsense"}); err == nil {
		t.Error("an unknown flag is accepted")
	}
}

func TestReadPathways(t *testing.T) {
	got := readPathways([]byte("# HELP x\nlatent_attention_rows_total{pathway=\"mla\",phase=\"decode\"} 5\n"+
		"latent_attention_rows_total{phase=\"prefill\",pathway=\"mla\"} 2\nlatent_attention_pairs_total{pathway=\"mla\"} 9\n"), map[string]float64{"mha": 1})
	if diff := cmp.Diff(map[string]float64{"mha": 1, "mla": 7}, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
	if diff := cmp.Diff(map[string]float64{"mla": 3}, since(map[string]float64{"mla": 4, "mha": 1}, got)); diff != "" {
		t.Error("(-want +got):", diff)
	}
}
