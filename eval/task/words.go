package task

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"sync"

	"latent/demo"
)

// wordLists is what generators take from demo/words.json. The templates in it
// are the demo model's own.
type wordLists struct {
	Adjectives, Nouns, Names, Things []string
	Filler                           struct{ Subjects, Verbs, Sentences []string }
	Needle                           struct{ Facts, Questions []string }
	Variables                        struct{ Value, Copy, Question string }
}

var lists = sync.OnceValue(func() *wordLists {
	w := new(wordLists)
	if err := json.Unmarshal(demo.Words(), w); err != nil {
		panic("task: embedded words.json: " + err.Error())
	}
	return w
})

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// fill replaces {name} by its value for each pair name, value.
func fill(template string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		pairs[i] = "{" + pairs[i] + "}"
	}
	return strings.NewReplacer(pairs...).Replace(template)
}
