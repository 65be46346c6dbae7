package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"latent/engine"
)

// joined is what a client has put together of a stream, or read in a response.
type joined struct {
	Text, Reasoning, Finish string
	MatchedStop             any
	Logprobs                int
	IDs                     []int32
	Calls                   []string
}

// join puts a stream's choices together, and checks what holds for every chunk.
func join(t *testing.T, events []answered) []joined {
	t.Helper()
	var out []joined
	begun := map[int]bool{}
	for i, e := range events {
		if e.ID != events[0].ID || e.Created != events[0].Created || e.Model != events[0].Model {
			t.Errorf("event %d: %s, %d, %s, the first has %s, %d, %s", i, e.ID, e.Created, e.Model, events[0].ID, events[0].Created, events[0].Model)
		}
		for _, c := range e.Choices {
			for len(out) <= c.Index {
				out = append(out, joined{})
			}
			j := &out[c.Index]
			if j.Finish != "" {
				t.Errorf("event %d: choice %d goes on after its end", i, c.Index)
			}
			if role := c.Delta.Role != ""; e.Object == "chat.completion.chunk" && role == begun[c.Index] {
				t.Errorf("event %d: choice %d, role %q", i, c.Index, c.Delta.Role)
			}
			begun[c.Index] = true
			text := c.Text
			if c.Delta.Content != nil {
				text += *c.Delta.Content
			}
			if strings.ContainsRune(text, '\uFFFD') {
				t.Errorf("event %d: half a character in %q", i, text)
			}
			if text+c.Delta.Reasoning == "" && c.Finish == nil && len(c.Delta.ToolCalls) == 0 && c.Logprobs == nil && c.TokenIDs == nil {
				t.Errorf("event %d says nothing", i)
			}
			j.Text, j.Reasoning = j.Text+text, j.Reasoning+c.Delta.Reasoning
			j.IDs = append(j.IDs, c.TokenIDs...)
			if c.Logprobs != nil {
				j.Logprobs += len(c.Logprobs.Content) + len(c.Logprobs.Tokens)
			}
			for _, call := range c.Delta.ToolCalls {
				if call.ID != "" {
					j.Calls = append(j.Calls, call.Function.Name+" ")
				}
				j.Calls[call.Index] += call.Function.Arguments
			}
			if c.Finish != nil {
				j.Finish, j.MatchedStop = *c.Finish, c.MatchedStop
			}
		}
	}
	return out
}

// whole reads the same from a response.
func whole(a answered) []joined {
	var out []joined
	for _, c := range a.Choices {
		j := joined{Text: c.Text, Reasoning: c.Message.Reasoning, Finish: *c.Finish, MatchedStop: c.MatchedStop, IDs: c.TokenIDs}
		if c.Message.Content != nil {
			j.Text += *c.Message.Content
		}
		if c.Logprobs != nil {
			j.Logprobs = len(c.Logprobs.Content) + len(c.Logprobs.Tokens)
		}
		for _, call := range c.Message.ToolCalls {
			j.Calls = append(j.Calls, call.Function.Name+" "+call.Function.Arguments)
		}
		out = append(out, j)
	}
	return out
}

// TestStreamsEqualAnswers: what a stream's deltas make is the answer without
// streaming.
func TestStreamsEqualAnswers(t *testing.T) {
	f := start(t, Config{}, exact(), nil)
	const question = `"messages":[{"role":"user","content":"What is 12 + 7? Grüße, 你好 🙂"}]`
	for _, c := range []struct{ path, body string }{
		{chatPath, question + `,"temperature":0`},
		{chatPath, question + `,"temperature":1.3,"seed":11,"n":3,"max_tokens":40`},
		{chatPath, question + `,"temperature":0,"stop":[" = ","zz"]`},
		{chatPath, question + `,"temperature":0,"logprobs":true,"top_logprobs":2,"return_token_ids":true`},
		{chatPath, question + `,"temperature":0,"reasoning_effort":"low","max_tokens":30`},
		{completionsPath, `"prompt":"Hello","max_tokens":40,"temperature":2,"seed":3`},
		{completionsPath, `"prompt":["Hello","1 + 2 =","你好"],"max_tokens":20,"temperature":2,"seed":4,"n":2`},
		{completionsPath, `"prompt":["Hello","1 + 2 ="],"max_tokens":6,"temperature":0,"n":2,"echo":true,"logprobs":1,"return_token_ids":true`},
		{completionsPath, `"prompt":"é 🙂","max_tokens":0,"echo":true,"logprobs":0`},
	} {
		want := f.ask(t, c.path, "{"+c.body+"}")
		status, header, text := f.do(t, "POST", c.path, "{"+c.body+`,"stream":true,"stream_options":{"include_usage":true}}`)
		if status != http.StatusOK || header.Get("Content-Type") != "text/event-stream; charset=utf-8" || header.Get("Cache-Control") != "no-cache" || header.Get("X-Accel-Buffering") != "no" {
			t.Fatalf("%s: status %d, %v: %s", c.body, status, header, text)
		}
		events := parseEvents(t, text)
		last := events[len(events)-1]
		if diff := cmp.Diff(whole(want), join(t, events)); diff != "" {
			t.Errorf("%s: answer -, stream +\n%s", c.body, diff)
		}
		if last.Usage == nil || last.Choices == nil || len(last.Choices) != 0 {
			t.Errorf("%s: last event %+v", c.body, last)
		} else if last.Usage.Prompt != want.Usage.Prompt || last.Usage.Completion != want.Usage.Completion || last.Usage.More != want.Usage.More {
			t.Errorf("%s: usage %+v, want %+v", c.body, *last.Usage, *want.Usage)
		}
	}
}

// TestStreamUsage: usage only where it was asked for, and explanations on the
// last chunk.
func TestStreamUsage(t *testing.T) {
	f := start(t, Config{}, exact(), nil)
	for _, c := range []struct {
		options         string
		every, separate bool
	}{
		{`{}`, false, false},
		{`{"include_usage":true}`, false, true},
		{`{"continuous_usage_stats":true}`, true, false},
		{`{"include_usage":true,"continuous_usage_stats":true}`, true, true},
	} {
		_, _, text := f.do(t, "POST", completionsPath, `{"prompt":"Hello","max_tokens":8,"stream":true,"latent":{"explain":true},"stream_options":`+c.options+`}`)
		events := parseEvents(t, text)
		before := 0
		for i, e := range events {
			last := i == len(events)-1
			if (len(e.Choices) == 0) != (last && c.separate) {
				t.Errorf("%s: event %d has %d choices", c.options, i, len(e.Choices))
			}
			if (e.Usage != nil) != (c.every || last && c.separate) {
				t.Errorf("%s: event %d has usage %v", c.options, i, e.Usage)
			}
			if (e.Latent != nil) != last {
				t.Errorf("%s: event %d of %d has an explanation: %t", c.options, i, len(events), e.Latent != nil)
			}
			if e.Usage != nil {
				if e.Usage.Completion < before {
					t.Errorf("%s: usage falls to %d", c.options, e.Usage.Completion)
				}
				before = e.Usage.Completion
			}
		}
	}
}

// TestFirstChunkComesWithTheFirstToken: nothing is sent before, not even the
// status, and then text and role at once.
func TestFirstChunkComesWithTheFirstToken(t *testing.T) {
	g, observe := gated()
	f := start(t, Config{}, exact(), observe)
	defer g.lift()
	opened := make(chan *http.Response, 1)
	go func() {
		resp, err := http.Post(f.http.URL+chatPath, "application/json", strings.NewReader(`{"messages":[{"role":"user","content":"What is 12 + 7?"}],"temperature":0,"stream":true}`))
		if err != nil {
			t.Error(err)
		}
		opened <- resp
	}()
	resp := <-opened // the first step is done, the loop waits behind it
	defer resp.Body.Close()
	first := make([]byte, 1<<16)
	n, err := resp.Body.Read(first)
	if err != nil {
		t.Fatal(err)
	}
	got := parseEvents(t, string(first[:n])+"data: [DONE]\n\n")
	if len(got) != 1 || got[0].Choices[0].Delta.Role != "assistant" || *got[0].Choices[0].Delta.Content == "" {
		t.Errorf("the first chunk is %s", first[:n])
	}
	g.lift()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Error(err)
	}
}

// script is a source of events that were written beforehand.
type script struct {
	events []engine.Event
	ready  chan struct{}
}

func newScript(events ...engine.Event) *script {
	s := &script{events: events, ready: make(chan struct{}, 1)}
	s.ready <- struct{}{}
	return s
}

func (s *script) Ready() <-chan struct{} { return s.ready }

func (s *script) Poll() (e engine.Event, more, ok bool) {
	if len(s.events) == 0 {
		return e, false, false
	}
	e, s.events = s.events[0], s.events[1:]
	return e, true, true
}

// serveScript answers chat requests with a text that no engine wrote, cut into
// pieces of size characters.
func serveScript(t *testing.T, f *fixture, text string, size int, finish engine.FinishReason, failed error) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := f.newExchange(w, r)
		defer f.finish(x)
		fields, ok := f.admit(x, 1<<20)
		if !ok {
			return
		}
		g := f.parseGeneration(fields)
		form := f.parseChat(fields, &g)
		if fields.err != nil {
			x.fail(fields.err)
			return
		}
		ids, parser, err := f.engine.Encode(form.request)
		if err != nil {
			t.Error(err)
		}
		var events []engine.Event
		runes := []rune(text)
		for piece := range slices.Chunk(runes, size) {
			events = append(events, engine.Event{Text: string(piece), Tokens: []engine.Token{{ID: 40}}})
		}
		events = append(events, engine.Event{Finish: finish, Err: failed})
		newAnswer(f.Server, x, &g, form, []prompt{{ids: ids, parser: parser, stream: newScript(events...)}}).deliver()
	}))
	t.Cleanup(server.Close)
	return server
}

const weatherTool = `{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}}}}}`

// callText is how the model writes two calls.
const callText = "I will look.\n\n<｜DSML｜function_calls>\n" +
	`<｜DSML｜invoke name="weather">` + "\n" + `<｜DSML｜parameter name="city" string="true">Zürich "Nord"</｜DSML｜parameter>` + "\n" +
	`<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>` + "\n</｜DSML｜invoke>\n" +
	`<｜DSML｜invoke name="weather">` + "\n" + `<｜DSML｜parameter name="city" string="true">Bern</｜DSML｜parameter>` + "\n</｜DSML｜invoke>\n</｜DSML｜function_calls>"

// TestToolCalls: calls come out alike with and without streaming, however the
// text was cut; parallel_tool_calls false keeps the first, tool_choice none and
// no tools leave text.
func TestToolCalls(t *testing.T) {
	f := start(t, Config{}, exact(), nil)
	first, second := `weather {"city": "Zürich \"Nord\"", "days": 3}`, `weather {"city": "Bern"}`
	for _, size := range []int{1, 7, 1000} {
		server := serveScript(t, f, callText, size, engine.FinishStop, nil)
		scripted := *f
		scripted.http = server
		for _, c := range []struct {
			extra string
			want  joined
		}{
			{`,"tools":[` + weatherTool + `]`, joined{Text: "I will look.", Finish: "tool_calls", Calls: []string{first, second}}},
			{`,"tools":[` + weatherTool + `],"parallel_tool_calls":false`, joined{Text: "I will look.", Finish: "tool_calls", Calls: []string{first}}},
			{`,"tools":[` + weatherTool + `],"tool_choice":"none"`, joined{Text: callText, Finish: "stop"}},
			{"", joined{Text: callText, Finish: "stop"}},
		} {
			body := `{"messages":[{"role":"user","content":"Weather?"}]` + c.extra
			if diff := cmp.Diff([]joined{c.want}, whole(scripted.ask(t, chatPath, body+"}"))); diff != "" {
				t.Errorf("pieces of %d, %s: %s", size, c.extra, diff)
			}
			_, _, text := scripted.do(t, "POST", chatPath, body+`,"stream":true}`)
			if diff := cmp.Diff([]joined{c.want}, join(t, parseEvents(t, text))); diff != "" {
				t.Errorf("pieces of %d, %s, streamed: %s", size, c.extra, diff)
			}
		}
	}
}

// TestErrorsWhileAnswering: before the first byte an error has its own status,
// after it comes as an event, and every choice ends.
func TestErrorsWhileAnswering(t *testing.T) {
	f := start(t, Config{}, exact(), nil)
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{&engine.FailedError{Err: errors.New("secret detail")}, 500, "device_error"},
		{&engine.PanicError{Value: "secret detail"}, 500, "internal"},
		{errors.New("secret detail"), 500, "internal"},
		{engine.ErrShutdown, 503, "server_shutdown"},
		{errShutdown, 503, "server_shutdown"},
	} {
		for _, text := range []string{"", "Some text"} {
			scripted := *f
			scripted.http = serveScript(t, f, text, 4, engine.FinishAbort, c.err)
			for _, stream := range []bool{false, true} {
				status, header, body := scripted.do(t, "POST", chatPath, fmt.Sprintf(`{"messages":[{"role":"user","content":"x"}],"stream":%t}`, stream))
				if strings.Contains(body, "secret") {
					t.Errorf("%v: the client learns %s", c.err, body)
				}
				if !stream || text == "" {
					if status != c.status || !strings.Contains(body, quote(c.code)) || header.Get("Content-Type") != "application/json" {
						t.Errorf("%v, %q: status %d: %s", c.err, text, status, body)
					}
					continue
				}
				events := parseEvents(t, body)
				if last := events[len(events)-1]; status != 200 || last.Error == nil || last.Error.Code != c.code {
					t.Errorf("%v: status %d, last event %+v", c.err, status, last)
				}
				if got := join(t, slices.DeleteFunc(events, func(e answered) bool { return e.Error != nil })); got[0].Text != text || got[0].Finish != "abort" {
					t.Errorf("%v: %+v", c.err, got)
				}
			}
		}
	}
	if logged := f.log.String(); !strings.Contains(logged, "secret detail") {
		t.Error("the log does not say what happened")
	}
}

// TestOpenAIClient: the Go client of OpenAI works unchanged.
func TestOpenAIClient(t *testing.T) {
	f := start(t, Config{}, exact(), nil)
	client := openai.NewClient(option.WithBaseURL(f.http.URL+"/v1"), option.WithAPIKey("dummy"))
	ctx := t.Context()

	models, err := client.Models.List(ctx)
	if err != nil || len(models.Data) != 2 || models.Data[0].ID != "demo" {
		t.Fatalf("models %+v, %v", models, err)
	}
	params := openai.ChatCompletionNewParams{
		Model: models.Data[0].ID, Temperature: openai.Float(0), Seed: openai.Int(5),
		Messages: []openai.ChatCompletionMessageParamUnion{openai.SystemMessage("Be brief."), openai.UserMessage("What is 12 + 7?")},
	}
	answer, err := client.Chat.Completions.New(ctx, params)
	if err != nil {
		t.Fatal(err)
	}
	params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
	var acc openai.ChatCompletionAccumulator
	stream := client.Chat.Completions.NewStreaming(ctx, params)
	for stream.Next() {
		if !acc.AddChunk(stream.Current()) {
			t.Errorf("the accumulator refuses %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	got, want := acc.Choices[0], answer.Choices[0]
	if got.Message.Content != want.Message.Content || want.Message.Content == "" || got.FinishReason != want.FinishReason || acc.Usage.TotalTokens != answer.Usage.TotalTokens {
		t.Errorf("streamed %+v %+v, whole %+v %+v", got, acc.Usage, want, answer.Usage)
	}

	completion, err := client.Completions.New(ctx, openai.CompletionNewParams{
		Model: "alias", Prompt: openai.CompletionNewParamsPromptUnion{OfArrayOfStrings: []string{"a", "b"}}, MaxTokens: openai.Int(2),
	})
	if err != nil || len(completion.Choices) != 2 {
		t.Errorf("completion %+v, %v", completion, err)
	}

	_, err = client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{Model: "other", Messages: params.Messages})
	var refused *openai.Error
	if !errors.As(err, &refused) || refused.StatusCode != 404 || refused.Code != "model_not_found" || refused.Param != "model" {
		t.Errorf("another model: %v", err)
	}

	tools := openai.NewClient(option.WithBaseURL(serveScript(t, f, callText, 3, engine.FinishStop, nil).URL), option.WithAPIKey("dummy"))
	params.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
		Name: "weather", Parameters: openai.FunctionParameters{"type": "object"},
	})}
	params.StreamOptions = openai.ChatCompletionStreamOptionsParam{}
	called, err := tools.Chat.Completions.New(ctx, params)
	if err != nil {
		t.Fatal(err)
	}
	acc = openai.ChatCompletionAccumulator{}
	stream = tools.Chat.Completions.NewStreaming(ctx, params)
	for stream.Next() {
		acc.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	for _, message := range []openai.ChatCompletionMessage{called.Choices[0].Message, acc.Choices[0].Message} {
		calls := message.ToolCalls
		if len(calls) != 2 || calls[0].Function.Name != "weather" || calls[0].ID == "" || calls[1].Function.Arguments != `{"city": "Bern"}` {
			t.Errorf("calls %+v", calls)
		}
	}
	// The answer to a call can be sent back.
	params.Messages = append(params.Messages, called.Choices[0].Message.ToParam(),
		openai.ToolMessage("rain", called.Choices[0].Message.ToolCalls[0].ID), openai.ToolMessage("sun", called.Choices[0].Message.ToolCalls[1].ID))
	params.MaxTokens = openai.Int(2)
	if _, err := client.Chat.Completions.New(ctx, params); err != nil {
		t.Errorf("with tool results: %v", err)
	}
}

// TestCancelledByOperator: a request that the engine's owner ends is answered as
// far as it came.
func TestCancelledByOperator(t *testing.T) {
	g, observe := gated()
	f := start(t, Config{}, exact(), observe)
	defer g.lift()
	done := make(chan answered)
	go func() {
		done <- f.ask(t, completionsPath, `{"prompt":"Hello","max_tokens":100,"ignore_eos":true,"rid":"mine"}`)
	}()
	g.steps <- struct{}{} // the first step is done
	if !f.engine.Core().Cancel("mine") {
		t.Error("there is no request called mine")
	}
	g.lift()
	if a := <-done; *a.Choices[0].Finish != "abort" || a.Usage.Completion == 0 {
		t.Errorf("%+v", a.Choices[0])
	}
}
