package task

import (
	"strings"
	"testing"
)

// TestLetter goes through answers with four options; none is an invalid one.
func TestLetter(t *testing.T) {
	for text, want := range map[string]string{
		"Answer: B":                              "B",
		"answer: b":                              "B",
		"ANSWER: B.":                             "B",
		"Answer:B":                               "B",
		"Answer : B":                             "B",
		"**Answer: B**":                          "B",
		"**Answer:** B":                          "B",
		"**Answer**: **B**":                      "B",
		"*Answer: (B)*":                          "B",
		"Answer: [B]":                            "B",
		"Answer: $B$":                            "B",
		"Answer: $\\boxed{B}$":                   "B",
		"Answer: $\\boxed{\\text{B}}$":           "B",
		"Answer: \\(\\mathbf{B}\\)":              "B",
		"Answer: \"B\"":                          "B",
		"Answer: `B`":                            "B",
		"Answer: <B>":                            "B",
		"Answer: B) Paris":                       "B",
		"Answer: B. A cat":                       "B",
		"Answer: B: A cat or a dog":              "B",
		"Answer: B (A cat)":                      "B",
		"Answer: B - because A is wrong":         "B",
		"Answer: (B) 3 and 4":                    "B",
		"Answer: option B":                       "B",
		"Answer: The correct option is B":        "B",
		"Final Answer: C":                        "C",
		"The answer is C.":                       "C",
		"The answer is: C":                       "C",
		"The correct answer is **(C)**":          "C",
		"the final answer is $\\boxed{C}$.":      "C",
		"So the answer is C, since A fails":      "C",
		"Answer = D":                             "D",
		"Answer choice: D":                       "D",
		"Answer: A\nNo, wait.\nAnswer: D":        "D",
		"Answer: A. Or rather: the answer is D":  "D",
		"Answer: B\n\nI hope this helps.":        "B",
		"The answer is not obvious.\nAnswer: B":  "B",
		"Answer: B\nThe answer is not A.":        "B",
		"Answer: B\r\n":                          "B",
		"Answer: A, A":                           "A",
		"Answer: A and B":                        none,
		"Answer: A or B":                         none,
		"Answer: A, B":                           none,
		"Answer: A/B":                            none,
		"Answer: (A) and (C)":                    none,
		"Answer: **A**, **B**, and **C**":        none,
		"Answer: E":                              none,
		"Answer: D\nAnswer: A or B":              none,
		"Answer: a cat":                          none,
		"Answer: I think so":                     none,
		"Answer: I think B":                      none,
		"Answer: Paris":                          none,
		"Answer: Because of A":                   none,
		"Answer:":                                none,
		"Answer: A-levels":                       none,
		"Answer: B12":                            none,
		"**Answer:**\nB":                         "B",
		"B":                                      "B",
		" B":                                     "B",
		"b":                                      "B",
		"(B)":                                    "B",
		"B.":                                     "B",
		"**B**":                                  "B",
		"It must be this one.\n\n**B**\n":        "B",
		"Hence $\\boxed{B}$.":                    "B",
		"\\boxed{\\text{B}}":                     "B",
		"E":                                      none,
		"B is right, I think":                    none,
		"A\nis the first letter of the alphabet": none,
		"I would go for B":                       none,
		"":                                       none,
		"\n\n":                                   none,
		"The answers differ: A says so":          none,
		"Answer: **Option D: none of the above**":  "D",
		"Answer: The answer is B":                  "B",
		"Answer: B; the answer C is a distraction": "B",
	} {
		got, ok := letter(text, 4)
		if !ok {
			got = none
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func FuzzLetter(f *testing.F) {
	for _, s := range []string{"Answer: **(B)**", "answer is a, b", "\\boxed{\\text{C}}", "answer:answer:A-", "Answer: ,/&"} {
		f.Add(s, 4)
	}
	f.Fuzz(func(t *testing.T, text string, n int) {
		if n < 2 || n > 26 {
			return
		}
		if c, ok := letter(text, n); ok && (len(c) != 1 || int(c[0]-'A') >= n || !strings.Contains(strings.ToUpper(text), c)) {
			t.Errorf("%q: %q", text, c)
		}
	})
}
