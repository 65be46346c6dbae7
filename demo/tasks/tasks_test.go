package tasks

import (
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func words(s string) int { return len(strings.Fields(s)) }

// TestNeedleIsAnswerable looks every answer up in the text by its key.
func TestNeedleIsAnswerable(t *testing.T) {
	key := regexp.MustCompile(`the (\w+ \w+)[?.]?$`)
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		turns := Needle(r, 100+r.IntN(1000), words)
		if len(turns) < 2 || len(turns) > 8 {
			t.Fatalf("seed %d: %d questions", seed, len(turns))
		}
		text := turns[0].Question
		for i, turn := range turns {
			q := strings.TrimSuffix(turn.Question, "?")
			m := key.FindStringSubmatch(q)
			if m == nil {
				t.Fatalf("seed %d, question %d has no key: %q", seed, i, q[max(0, len(q)-60):])
			}
			fact := regexp.MustCompile(`code (?:for|of) the `+m[1]+` is (\d{4})\.`).FindAllStringSubmatch(text, -1)
			if len(fact) != 1 || fact[0][1] != turn.Answer {
				t.Fatalf("seed %d, key %q: facts %v, answer %q", seed, m[1], fact, turn.Answer)
			}
		}
	}
}

// TestNeedleLength checks that the text grows to about its budget.
func TestNeedleLength(t *testing.T) {
	for _, budget := range []int{200, 500, 1000, 2000} {
		total := 0
		for seed := range uint64(50) {
			for _, turn := range Needle(rand.New(rand.NewPCG(seed, 2)), budget, words) {
				total += words(turn.Question) + words(turn.Answer)
			}
		}
		if mean := total / 50; mean < budget/2 || mean > budget*11/10 {
			t.Errorf("budget %d: %d words on average", budget, mean)
		}
	}
}

// TestVariablesFollow evaluates the assignments in order.
func TestVariablesFollow(t *testing.T) {
	assign := regexp.MustCompile(`Let (\w+) = (\w+)\.`)
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		turns := Variables(r, 120+r.IntN(400), words)
		value := map[string]string{}
		for _, m := range assign.FindAllStringSubmatch(turns[0].Question, -1) {
			if v, ok := value[m[2]]; ok {
				value[m[1]] = v
			} else {
				value[m[1]] = m[2]
			}
		}
		for _, turn := range turns {
			name := strings.TrimSuffix(turn.Question[strings.LastIndex(turn.Question, " ")+1:], "?")
			if value[name] != turn.Answer {
				t.Fatalf("seed %d: %s is %q, answer %q", seed, name, value[name], turn.Answer)
			}
		}
	}
}

// TestCalculations evaluates every line of the answers.
func TestCalculations(t *testing.T) {
	step := regexp.MustCompile(`^(\d+) ([-+*]) (\d+) = (\d+)$`)
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 4))
		turn := Arithmetic(r)
		if seed%2 == 0 {
			turn = Problem(r)
		}
		if strings.ContainsAny(turn.Question, "{}") {
			t.Fatalf("seed %d: unfilled template %q", seed, turn.Question)
		}
		lines := strings.Split(turn.Answer, "\n")
		last := ""
		for _, line := range lines[:len(lines)-1] {
			m := step.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("seed %d: line %q", seed, line)
			}
			a, _ := strconv.Atoi(m[1])
			b, _ := strconv.Atoi(m[3])
			want := map[string]int{"+": a + b, "-": a - b, "*": a * b}[m[2]]
			if last = m[4]; last != strconv.Itoa(want) || want < 0 {
				t.Fatalf("seed %d: %q", seed, line)
			}
		}
		if lines[len(lines)-1] != "#### "+last {
			t.Fatalf("seed %d: answer %q", seed, turn.Answer)
		}
	}
}

func TestSameSeedSameTask(t *testing.T) {
	for seed := range uint64(20) {
		a := Needle(rand.New(rand.NewPCG(seed, 5)), 300, words)
		b := Needle(rand.New(rand.NewPCG(seed, 5)), 300, words)
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("seed %d: turn %d differs", seed, i)
			}
		}
	}
	if g := Greeting(rand.New(rand.NewPCG(1, 6))); g.Question == "" || g.Answer == "" {
		t.Error("empty greeting")
	}
}
