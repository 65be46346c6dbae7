package checkpoint

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

func near(t *testing.T, what string, got, want, rel float64) {
	t.Helper()
	if math.Abs(got-want) > rel*math.Abs(want) {
		t.Errorf("%s = %.9g, want %.9g", what, got, want)
	}
}

// TestRopeVectors checks frequencies and scales against published values.
func TestRopeVectors(t *testing.T) {
	yarn := func(factor float64, original int, m float64) *YaRN {
		return &YaRN{Factor: factor, Original: original, BetaFast: 32, BetaSlow: 1, MScale: m, MScaleAllDim: m, HasMScale: true}
	}
	type freq = map[int]float64
	v3 := freq{0: 1, 1: .7498942, 9: .07498942, 10: .05623413, 11: .03900693, 12: .02687936, 16: .0055,
		20: 7.905694e-4, 22: 1.778279e-4, 23: 3.333804e-5, 24: 2.5e-5, 31: 3.333804e-6}
	small := freq{0: 1, 1: .0625, 2: .0025, 3: .00025}
	for _, x := range []struct {
		name            string
		nope, rope      int
		theta           float64
		yarn            *YaRN
		low, high       float64
		freq            freq
		mscale, softmax float64
	}{
		{"V3.2", 128, 64, 1e4, yarn(40, 4096, 1), 10, 23, v3, 1.3688879, 0.13523378},
		{"V2", 128, 64, 1e4, yarn(40, 4096, .707), 10, 23, v3, 1.2608038, 0.11472139},
		{"Kimi-K2", 128, 64, 5e4, yarn(32, 4096, 1), -1, -1, nil, 1.3465736, 0.13086080},
		{"GLM", 192, 64, 1e6, nil, -1, -1, freq{0: 1, 1: math.Pow(1e6, -1./32), 31: math.Pow(1e6, -31./32)}, 0, 0.0625},
		{"no YaRN", 128, 64, 1e4, nil, -1, -1, nil, 0, 0.07216878},
		{"golden v3", 16, 8, 1e4, yarn(4, 64, 1), 0, 2, small, 1.1386294, 0.26464226},
		{"golden v2_lite", 16, 8, 1e4, yarn(4, 64, .707), 0, 2, small, 1.0980110, 0.24609782},
		{"golden real_head_dims", 128, 64, 1e4, yarn(4, 64, 1), 0, 9,
			freq{1: .6874030, 9: .01874736, 31: 3.333804e-5}, 1.1386294, 0.09356517},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := &Config{Nope: x.nope, RopeDim: x.rope, Rope: RopeConfig{Theta: x.theta, YaRN: x.yarn}}
			near(t, "softmax scale", float64(c.SoftmaxScale()), x.softmax, 1e-7)
			if c.RopeFactor() != 1 {
				t.Errorf("factor of cos and sin %v, want 1", c.RopeFactor())
			}
			if x.yarn != nil {
				near(t, "mscale", x.yarn.mscale(x.yarn.MScaleAllDim), x.mscale, 1e-7)
			}
			if low, high := c.yarnRange(); x.low >= 0 && (low != x.low || high != x.high) {
				t.Errorf("range %v..%v, want %v..%v", low, high, x.low, x.high)
			}
			f := c.RopeFrequencies()
			for i, want := range x.freq {
				near(t, fmt.Sprint("f", i), float64(f[i]), want, 3e-7)
			}
		})
	}
}

// TestYaRNEqualBetas covers low = high, where the ramp is a step.
func TestYaRNEqualBetas(t *testing.T) {
	c := &Config{RopeDim: 64, Rope: RopeConfig{Theta: 5e4, YaRN: &YaRN{Factor: 32, Original: 4096, BetaFast: 1, BetaSlow: 1}}}
	f := c.RopeFrequencies()
	low, high := c.yarnRange()
	// Pair floor(64·ln(4096/2π)/(2·ln 5e4)) = 19 is the last unscaled one when
	// the range is 19..20.
	if low != 19 || high != 20 {
		t.Fatalf("range %v..%v, want 19..20", low, high)
	}
	near(t, "f19", float64(f[19]), math.Pow(5e4, -19./32), 1e-7)
	near(t, "f20", float64(f[20]), math.Pow(5e4, -20./32)/32, 1e-7)

	// ln(6/2π) < 0 puts both ends at pair 0: an empty range, widened so that
	// it does not divide by zero.
	c.Rope.YaRN.Original = 6
	for i, v := range c.RopeFrequencies() {
		want := math.Pow(5e4, -float64(i)/32) / 32
		if i == 0 {
			want = 1
		}
		near(t, fmt.Sprint("f", i), float64(v), want, 1e-7)
	}
}

// TestRopeFactor covers models whose cos and sin are scaled.
func TestRopeFactor(t *testing.T) {
	for _, x := range []struct {
		y    YaRN
		want float64
	}{
		{YaRN{Factor: 40, MScale: 1, MScaleAllDim: .707, HasMScale: true}, 1.3688879 / 1.2608038},
		{YaRN{Factor: 40, MScale: 1}, 1.3688879}, // one key missing: mscale(1)
		{YaRN{Factor: 40, AttentionFactor: 1.25}, 1.25},
	} {
		c := &Config{Nope: 1, RopeDim: 2, Rope: RopeConfig{Theta: 1e4, YaRN: &x.y}}
		near(t, "factor", float64(c.RopeFactor()), x.want, 1e-7)
	}
}

// TestRopeTableAngle checks that angles are float32 products: 0.75·100003 and
// the like differ visibly from the exact ones.
func TestRopeTableAngle(t *testing.T) {
	c := &Config{Nope: 16, RopeDim: 8, Rope: RopeConfig{Theta: 1e4, YaRN: &YaRN{Factor: 40, Original: 64, BetaFast: 32, BetaSlow: 1, AttentionFactor: 1.5}}}
	const n = 5000
	cos, sin := c.RopeTable(n)
	f := c.RopeFrequencies()
	for p := 0; p < n; p += 37 {
		for i := range f {
			angle := float64(float32(float64(float32(p)) * float64(f[i]))) // one rounding of the exact product
			near(t, fmt.Sprintf("cos(%d, %d)", p, i), float64(cos[p*4+i]), 1.5*math.Cos(angle), 1e-7)
			if want := 1.5 * math.Sin(angle); math.Abs(float64(sin[p*4+i])-want) > 1.5e-7 {
				t.Errorf("sin(%d, %d) = %v, want %v", p, i, sin[p*4+i], want)
			}
		}
	}
}

// TestGoldenScale reads what matters for attention from the golden models'
// files.
func TestGoldenScale(t *testing.T) {
	for name, want := range map[string]float64{
		"deepseek_v2_lite": 0.24609782, "deepseek_v3": 0.26464226, "deepseek_v32": 0.26464226,
		"deepseek_v32_real_head_dims_bf16": 0.09356517, "glm4_moe_lite": 1 / math.Sqrt(24), "glm_moe_dsa": 1 / math.Sqrt(24),
	} {
		data, err := os.ReadFile(filepath.Join(goldenDir, name, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseConfig(data)
		if err != nil {
			t.Fatal(name, err)
		}
		near(t, name, float64(c.SoftmaxScale()), want, 1e-7)
	}
}
