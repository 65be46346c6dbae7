package checkpoint

import (
	"os"
	"strings"
	"testing"
)

// TestBrokenRouterNumbers: a router's number that cannot be read must end in
// its own error, whatever is computed from the others.
func TestBrokenRouterNumbers(t *testing.T) {
	config, err := os.ReadFile("../testdata/golden/deepseek_v3/config.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"num_experts_per_tok", "n_group", "topk_group", "routed_scaling_factor", "n_routed_experts"} {
		for _, value := range []string{`"x"`, `[]`, `{}`, `0`, `-1`, `1e30`, `0.5`, `true`} {
			if key == "routed_scaling_factor" && (value == "0.5" || value == "1e30") {
				continue // is a scale
			}
			_, err := ParseConfig(config, []byte(`{"`+key+`": `+value+`}`))
			if err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("%s = %s: error %v, want one that names the key", key, value, err)
			}
		}
	}
}
