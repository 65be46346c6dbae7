package chat

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// strict reads an assistant's turn by the grammar that DeepSeek published with
// the model, without any of Parser's forgiveness and without its code:
//
//	[REASONING </think>] CONTENT [calls] EOS
func strict(turn string, thinking bool) (m Message, err error) {
	const d = "｜DSML｜"
	m.Role = Assistant
	take := func(what, upTo string) string {
		before, after, ok := strings.Cut(turn, upTo)
		if !ok && err == nil {
			err = fmt.Errorf("%s does not end in %q: %q", what, upTo, turn)
		}
		turn = after
		return before
	}
	if thinking {
		m.ReasoningContent = take("reasoning", "</think>")
	}
	body := take("turn", "<｜end▁of▁sentence｜>")
	if turn != "" {
		return m, fmt.Errorf("%q after the end", turn)
	}
	content, block, called := strings.Cut(body, "\n\n<"+d+"function_calls>\n")
	m.Content = content
	for _, s := range []string{m.Content, m.ReasoningContent} {
		for _, mark := range []string{"<think>", "</think>", d, "<｜begin▁of▁sentence｜>"} {
			if strings.Contains(s, mark) {
				return m, fmt.Errorf("%s in %q", mark, s)
			}
		}
	}
	if !called {
		return m, err
	}
	turn = block
	for err == nil && strings.HasPrefix(turn, "<"+d+"invoke ") {
		take("", `name="`)
		call := ToolCall{Name: take("name", "\">\n")}
		inside := take("call", "\n</"+d+"invoke>\n")
		rest := turn
		turn = inside
		var members []string
		for err == nil && turn != "" {
			take("", "<"+d+`parameter name="`)
			key, _ := json.Marshal(take("key", `" string="`))
			str := take("string", `">`)
			value := take("value", "</"+d+"parameter>")
			switch str {
			case "true":
				var quoted strings.Builder
				e := json.NewEncoder(&quoted)
				e.SetEscapeHTML(false)
				if err := e.Encode(value); err != nil {
					return m, err
				}
				value = strings.TrimSuffix(quoted.String(), "\n")
			case "false":
			default:
				return m, fmt.Errorf("string=%q", str)
			}
			members = append(members, string(key)+": "+value)
			turn = strings.TrimPrefix(turn, "\n")
		}
		call.Arguments = "{" + strings.Join(members, ", ") + "}"
		m.ToolCalls = append(m.ToolCalls, call)
		turn = rest
	}
	if err == nil && turn != "</"+d+"function_calls>" {
		err = fmt.Errorf("%q instead of the end of the calls", turn)
	}
	return m, err
}

// genText makes text that comes close to markup but does not contain any.
func genText() *rapid.Generator[string] {
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{"\n", "\n\n", "<", "</", ">", `"`, "\\", "<｜", "｜DSML", "</thin", "think>", "<｜DSML", "é", "😀", " ", "{", "}", "\t", "\u2028", "\x00", "true", "<result>"}),
		rapid.StringN(0, 8, -1),
	)
	return rapid.Custom(func(t *rapid.T) string {
		s := strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "pieces"), "")
		for _, mark := range []string{dsml, thinkOpen, thinkClose, bos, eos} {
			s = strings.ReplaceAll(s, mark, "")
		}
		return validUTF8(s)
	}).Filter(func(s string) bool {
		// Taking one mark out may have joined another.
		for _, mark := range []string{dsml, thinkOpen, thinkClose, bos, eos} {
			if strings.Contains(s, mark) {
				return false
			}
		}
		return true
	})
}

func genValue(depth int) *rapid.Generator[Value] {
	return rapid.Custom(func(t *rapid.T) Value {
		kinds := []Kind{Null, Bool, Number, String, Array, Object}
		if depth == 0 {
			kinds = kinds[:4]
		}
		v := Value{Kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
		switch v.Kind {
		case Bool:
			v.Bool = rapid.Bool().Draw(t, "bool")
		case Number:
			v.Text = rapid.OneOf(
				rapid.StringMatching(`-?[1-9][0-9]{0,30}`),
				rapid.Map(rapid.Float64(), func(f float64) string { b, _ := json.Marshal(f); return string(b) }),
			).Draw(t, "number")
		case String:
			v.Text = genText().Draw(t, "string")
		case Array:
			v.Items = rapid.SliceOfN(genValue(depth-1), 0, 3).Draw(t, "items")
		case Object:
			v.Members = genMembers(depth-1).Draw(t, "members")
		}
		return v
	})
}

func genMembers(depth int) *rapid.Generator[[]Member] {
	member := rapid.Custom(func(t *rapid.T) Member {
		key := rapid.StringMatching(`[a-zA-Zé_. ]{0,8}`).Draw(t, "key")
		return Member{key, genValue(depth).Draw(t, "value")}
	})
	return rapid.SliceOfNDistinct(member, 0, 4, func(m Member) string { return m.Key })
}

// What an assistant said must read back from its own rendering: by the strict
// grammar, and by Parser however the text is cut.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		thinking := rapid.Bool().Draw(t, "thinking")
		want := Message{Role: Assistant, Content: genText().Draw(t, "content")}
		if thinking {
			want.ReasoningContent = "r" + genText().Draw(t, "reasoning")
		}
		for range rapid.IntRange(0, 3).Draw(t, "calls") {
			arguments := Value{Kind: Object, Members: genMembers(2).Draw(t, "arguments")}
			want.ToolCalls = append(want.ToolCalls, ToolCall{
				Name:      rapid.StringMatching(`[a-zA-Z_.-]{1,10}`).Draw(t, "name"),
				Arguments: arguments.String(),
			})
		}
		p, err := V32{}.Render(Request{Messages: []Message{{Role: User, Content: "u"}, want}, Thinking: thinking})
		if err != nil {
			t.Fatal(err)
		}
		generation, err := V32{}.Render(Request{Messages: []Message{{Role: User, Content: "u"}}, Thinking: thinking, AddGenerationPrompt: true})
		if err != nil {
			t.Fatal(err)
		}
		turn, ok := strings.CutPrefix(p.Text, generation.Text)
		if !ok {
			t.Fatalf("%q does not go on from %q", p.Text, generation.Text)
		}
		got, err := strict(turn, thinking)
		if err != nil {
			t.Fatal(err)
		}
		// Compare arguments as rendered: encoding/json escapes a little more.
		normal := func(m Message) Message {
			m.ToolCalls = append([]ToolCall(nil), m.ToolCalls...)
			for i := range m.ToolCalls {
				v, err := ParseJSON(m.ToolCalls[i].Arguments)
				if err != nil {
					t.Fatal(err)
				}
				m.ToolCalls[i].Arguments, m.ToolCalls[i].ID = v.String(), ""
			}
			return m
		}
		if diff := cmp.Diff(normal(want), normal(got)); diff != "" {
			t.Fatalf("strict (-said +read):\n%s", diff)
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "cuts"), 0))
		body := strings.TrimSuffix(turn, eos)
		got = complete(ParserOptions{Reasoning: generation.Reasoning}, cut(body, rng), false)
		if diff := cmp.Diff(normal(want), normal(got)); diff != "" {
			t.Fatalf("Parser (-said +read):\n%s", diff)
		}
		// Parser writes arguments exactly as they were said.
		for i := range got.ToolCalls {
			if got.ToolCalls[i].Arguments != want.ToolCalls[i].Arguments {
				t.Fatalf("arguments %s became %s", want.ToolCalls[i].Arguments, got.ToolCalls[i].Arguments)
			}
		}
	})
}
