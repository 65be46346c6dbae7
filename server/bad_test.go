package server

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"latent"
)

// TestBadRequests sends what testdata/bad_requests holds and compares the status
// and the error. Of {...} in an input, {name} is replaced: by something too
// large to write down.
func TestBadRequests(t *testing.T) {
	f := start(t, Config{MaxRequestBytes: 1 << 20}, latent.Options{MaxContext: 256, MaxTotalTokens: 4096, Calibration: "builtin"}, nil)
	big := strings.NewReplacer(
		"{100,000 stops}", strings.TrimSuffix(strings.Repeat(`"a",`, 100_000), ","),
		"{deep}", strings.Repeat(`[`, 1000)+strings.Repeat("]", 1000),
		"{deeper}", strings.Repeat(`{"a":`, 100_000),
		"{1025 prompts}", strings.TrimSuffix(strings.Repeat(`"a",`, 1025), ","),
		"{1025 biases}", strings.TrimSuffix(biases(1025), ","),
		"{300 ids}", strings.TrimSuffix(strings.Repeat("7,", 300), ","),
		"{256 ids}", strings.TrimSuffix(strings.Repeat("7,", 256), ","),
		"{257 characters}", strings.Repeat("é", 257),
		"{2 MB}", strings.Repeat("x", 2<<20),
		"{8 MB}", strings.Repeat("x", 8<<20),
	)
	cases := 0
	datadriven.RunTest(t, "testdata/bad_requests", func(t *testing.T, d *datadriven.TestData) string {
		cases++
		path := map[string]string{"chat": chatPath, "completions": completionsPath}[d.Cmd]
		method := "POST"
		if d.Cmd == "request" {
			path = d.CmdArgs[1].Key
			method = d.CmdArgs[0].Key
		}
		var headers []string
		if d.HasArg("type") {
			var kind string
			d.ScanArgs(t, "type", &kind)
			headers = []string{"Content-Type", kind}
		}
		status, header, body := f.do(t, method, path, big.Replace(d.Input), headers...)
		if status < 400 || status >= 500 {
			return fmt.Sprintf("status %d: %s", status, body)
		}
		var e struct {
			Error struct {
				Message, Type, Code string
				Param               *string
			}
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			return fmt.Sprintf("status %d, no error object: %s", status, body)
		}
		if header.Get("X-Request-Id") == "" {
			return "no X-Request-Id"
		}
		param := "-"
		if e.Error.Param != nil {
			param = *e.Error.Param
		}
		out := fmt.Sprintf("%d %s %s %s\n%s\n", status, e.Error.Type, e.Error.Code, param, e.Error.Message)
		if allow := header.Get("Allow"); allow != "" {
			out += "Allow: " + allow + "\n"
		}
		return out
	})
	if cases < 60 {
		t.Errorf("%d cases", cases)
	}
	if stats := f.engine.Stats(); stats.Running+stats.Waiting+stats.Cache.Used > 0 {
		t.Errorf("refused requests left something behind: %+v", stats)
	}
}

func biases(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%d":1,`, i)
	}
	return b.String()
}

// TestOddButValid: what looks wrong and is not.
func TestOddButValid(t *testing.T) {
	f := start(t, Config{}, latent.Options{MaxContext: 256, MaxTotalTokens: 4096, Calibration: "builtin"}, nil)
	for _, body := range []string{
		`{"prompt":"a\u0000b","max_tokens":1}`,
		`{"prompt":"\ud800 lone","max_tokens":1}`,
		"{\"prompt\":\"\xff\xfe\",\"max_tokens\":1}",
		`{"prompt":"x","max_tokens":1.0,"top_k":-1,"seed":-9223372036854775808}`,
		`{"prompt":"x","max_tokens":2e0,"n":null,"stop":null,"logprobs":null,"stream_options":null}`,
		`{"prompt":"x","max_tokens":9223372036854775808,"max_tokens":1}`,
		` {"prompt":[ 7 ,8, 9 ],"max_tokens":1,"stop":[]} `,
		`{"model":"default","prompt":"x","max_tokens":1}`,
		`{"model":"","prompt":"x","max_tokens":1,"logit_bias":{"5":-100,"6":1.5}}`,
		`{"prompt":"x","max_tokens":1,"temperature":1e-9,"min_tokens":1}`,
	} {
		f.ask(t, completionsPath, body)
	}
	for _, body := range []string{
		`{"messages":[{"role":"user","content":""}],"max_tokens":1}`,
		`{"messages":[{"role":"assistant","content":"x"},{"role":"system","content":"y"}],"max_tokens":1}`,
		`{"messages":[{"role":"user","content":"x","name":"n","refusal":null}],"max_tokens":1,"add_generation_prompt":true}`,
	} {
		f.ask(t, chatPath, body)
	}
	// A missing media type is tolerated; JSON's relatives are JSON.
	for _, kind := range []string{"", "application/json; charset=utf-8", "application/problem+json"} {
		if status, _, text := f.do(t, "POST", completionsPath, `{"prompt":"x","max_tokens":1}`, "Content-Type", kind); status != 200 {
			t.Errorf("Content-Type %q: %d %s", kind, status, text)
		}
	}
}

// TestIntegersAgainstFloats: whole numbers are read alike however they are
// written.
func TestIntegersAgainstFloats(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		n := random.Int64N(1<<40) - 1<<39
		for _, text := range []string{fmt.Sprint(n), fmt.Sprintf("%d.0", n), fmt.Sprintf("%.17e", float64(n))} {
			got, problem := parseInteger([]byte(text), -1<<40, 1<<40)
			if got != n || problem != "" {
				t.Fatalf("seed %d: %s is read as %d, %s", seed, text, got, problem)
			}
			if _, problem := parseInteger([]byte(text), n+1, n+2); problem == "" {
				t.Fatalf("seed %d: %s is taken for %d or %d", seed, text, n+1, n+2)
			}
		}
	}
}

// TestIDsAgainstJSON: the reader of id lists against encoding/json.
func TestIDsAgainstJSON(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	const alphabet = `0123456789,,,  -.e"[]{}n` + "\n"
	for range 20000 {
		text := []byte("[")
		for range random.IntN(12) {
			text = append(text, alphabet[random.IntN(len(alphabet))])
		}
		text = append(text, ']')
		if !json.Valid(text) {
			continue // the body was checked before
		}
		var want []int32
		err := json.Unmarshal(text, &want)
		valid := err == nil
		for _, id := range want {
			valid = valid && id >= 0 && id < 1000
		}
		valid = valid && !strings.Contains(string(text), "n") // null is no id
		got, failed := parseIDs("ids", text, 1000)
		if valid != (failed == nil) || valid && fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("seed %d: %s: %v, %v; want %v, %v", seed, text, got, failed, want, err)
		}
	}
}
