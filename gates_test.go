package latent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"latent"
	"latent/demo/tasks"
	"latent/server"
)

// fullGates asks for the whole table: every policy with every cache format at
// every length, with enough questions each. It takes some minutes.
var (
	fullGates   = flag.Bool("gates", false, "run the accuracy gates of the demo model in full")
	gatesModel  = flag.String("gates-model", "", "the folder of the demo model, if not the embedded one")
	gatesDevice = flag.String("gates-device", "cpu", "the device to run them on: cpu or cuda")
)

// gate is the share of answers that must be right.
const gate = 0.99

// TestAccuracyGates asks the demo model over HTTP for codes hidden in long
// texts and for small calculations, under every attention policy and cache
// format. Pathways and formats may change speed, not answers.
func TestAccuracyGates(t *testing.T) {
	policies := []string{"adaptive", "threshold", "mla", "mha"}
	formats := []string{"float32", "bfloat16", "fp8_e4m3"}
	if *gatesDevice == "cuda" { // which has no float32
		formats = formats[1:]
	}
	for _, policy := range policies {
		for _, format := range formats {
			if !*fullGates && policy != "adaptive" && format != "fp8_e4m3" {
				continue
			}
			t.Run(policy+"/"+format, func(t *testing.T) {
				c := serveDemo(t, latent.Options{AttentionPolicy: policy, KVCacheDType: format, Calibration: "builtin", Device: *gatesDevice, Model: *gatesModel})
				lengths, texts, sums := []int{256, 2048}, 1, 20
				if *fullGates {
					lengths, texts, sums = []int{256, 512, 1024, 2048}, 8, 200
				}
				for _, n := range lengths {
					c.needles(t, n, texts)
				}
				c.calculations(t, sums)
			})
		}
	}
}

// chatClient asks a server for greedy answers.
type chatClient struct {
	url string
	e   *latent.Engine
}

func serveDemo(t *testing.T, opts latent.Options) chatClient {
	t.Helper()
	e, err := latent.Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	s, err := server.New(server.Config{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	return chatClient{h.URL, e}
}

type wireMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// ask returns the answer to a conversation.
func (c chatClient) ask(messages []wireMessage, tokens int) (string, error) {
	body, err := json.Marshal(map[string]any{"messages": messages, "temperature": 0, "max_tokens": tokens})
	if err != nil {
		return "", err
	}
	resp, err := http.Post(c.url+"/v1/chat/completions", "application/json", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var answer struct {
		Choices []struct{ Message wireMessage }
	}
	if err := json.Unmarshal(data, &answer); err != nil || resp.StatusCode != http.StatusOK || len(answer.Choices) != 1 {
		return "", fmt.Errorf("status %d: %s", resp.StatusCode, data)
	}
	return answer.Choices[0].Message.Content, nil
}

// score asks all conversations, four at a time, each turn behind the right
// answers to those before it, and returns how many answers were right.
func (c chatClient) score(t *testing.T, conversations [][]tasks.Turn, tokens int) (right, asked int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, turns := range conversations {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			var messages []wireMessage
			for _, turn := range turns {
				messages = append(messages, wireMessage{"user", turn.Question})
				got, err := c.ask(messages, tokens)
				mu.Lock()
				asked++
				if err != nil {
					t.Error(err)
				} else if strings.TrimSpace(got) == turn.Answer {
					right++
				} else {
					t.Logf("…%q: answered %q, want %q", turn.Question[max(0, len(turn.Question)-60):], got, turn.Answer)
				}
				mu.Unlock()
				messages = append(messages, wireMessage{"assistant", turn.Answer})
			}
		}()
	}
	wg.Wait()
	return right, asked
}

func (c chatClient) needles(t *testing.T, length, texts int) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(length), 11))
	count := func(s string) int { return len(c.e.Tokenizer().EncodePlain(s)) }
	var conversations [][]tasks.Turn
	for range texts {
		conversations = append(conversations, tasks.Needle(r, length-20, count))
	}
	right, asked := c.score(t, conversations, 12)
	c.check(t, fmt.Sprintf("needles in %d tokens", length), right, asked)
}

func (c chatClient) calculations(t *testing.T, n int) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 11))
	var conversations [][]tasks.Turn
	for i := range n {
		turn := tasks.Arithmetic(r)
		if i%2 == 1 {
			turn = tasks.Problem(r)
		}
		conversations = append(conversations, []tasks.Turn{turn})
	}
	right, asked := c.score(t, conversations, 60)
	c.check(t, "calculations", right, asked)
}

func (c chatClient) check(t *testing.T, what string, right, asked int) {
	t.Helper()
	share := float64(right) / float64(asked)
	t.Logf("%s: %d of %d right", what, right, asked)
	if share < gate {
		t.Errorf("%s: %.3f right, want %.2f", what, share, gate)
	}
}
