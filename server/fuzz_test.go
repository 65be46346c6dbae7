package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"latent"
)

// tiny bounds what any request can ask for.
func tiny() latent.Options {
	return latent.Options{Calibration: "builtin", MaxContext: 64, MaxTotalTokens: 4096, MaxRunning: 128, ChunkedPrefillSize: 64}
}

// fuzzBody sends bodies to a path: whatever they hold, the answer is JSON or a
// well-formed stream, no error of the server's, and nothing is left behind.
func fuzzBody(f *testing.F, path string) {
	s := start(f, Config{}, tiny(), nil)
	handler := s.Handler()
	f.Fuzz(func(t *testing.T, body string) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "POST", path, strings.NewReader(body)))
		if ctx.Err() != nil {
			t.Fatal("no answer within 20 s")
		}
		switch {
		case w.Code >= 500 || w.Code == 422:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		case strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream"):
			for _, e := range parseEvents(t, w.Body.String()) {
				if e.Error != nil {
					t.Fatalf("an error in the stream: %+v", *e.Error)
				}
			}
		case !json.Valid(w.Body.Bytes()):
			t.Fatalf("not JSON: %s", w.Body)
		case w.Code != http.StatusOK:
			var a answered
			if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.Error == nil || a.Error.Message == "" || a.Error.Code == "" {
				t.Fatalf("status %d without an error object: %s", w.Code, w.Body)
			}
		}
		if stats := s.engine.Stats(); stats.Failed != nil {
			t.Fatal(stats.Failed)
		}
	})
}

func FuzzChatBody(f *testing.F) {
	for _, body := range []string{
		`{"messages":[{"role":"user","content":"hi"}],"max_tokens":2}`,
		`{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"hi"}]}],"max_tokens":2,"stream":true,"stream_options":{"include_usage":true}}`,
		`{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":null,"reasoning_content":"r","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","tool_call_id":"a","content":"y"}],"tools":[` + weatherTool + `],"max_tokens":2}`,
		`{"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}],"continue_final_message":true,"max_tokens":1,"logprobs":true,"top_logprobs":3}`,
		`{"messages":[{"role":"user","content":"<｜User｜>"}],"temperature":1.5,"top_p":0.5,"top_k":7,"min_p":0.1,"seed":-1,"n":2,"stop":["a"],"logit_bias":{"5":-3},"max_completion_tokens":3,"latent":{"explain":true}}`,
		`{"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":{"thinking":true},"reasoning_effort":"high","max_tokens":2,"stream":true,"return_token_ids":true}`,
	} {
		f.Add(body)
	}
	fuzzBody(f, chatPath)
}

func FuzzCompletionBody(f *testing.F) {
	for _, body := range []string{
		`{"prompt":"hi","max_tokens":2}`,
		`{"prompt":["a","b"],"max_tokens":2,"n":2,"stream":true}`,
		`{"prompt":[[1,2],[3]],"max_tokens":0,"echo":true,"logprobs":1}`,
		`{"prompt":[5,6,7],"max_tokens":3,"echo":true,"logprobs":2,"stream":true,"stream_options":{"continuous_usage_stats":true}}`,
		`{"prompt":"x","max_tokens":2,"best_of":1,"suffix":null,"min_tokens":1,"stop_token_ids":[4],"ignore_eos":true,"repetition_penalty":1.1,"presence_penalty":-1,"frequency_penalty":1}`,
	} {
		f.Add(body)
	}
	fuzzBody(f, completionsPath)
}
