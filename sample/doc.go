// Package sample turns logits into tokens: greedy and random sampling with
// temperature, top-k, top-p and min-p, penalties, logit bias and log
// probabilities. It works on one row of float32 logits on the host.
//
// A [Sampler] belongs to one sequence. In this order it adds the logit bias,
// applies repetition, frequency and presence penalties, divides by the
// temperature, keeps the top-k, of these the top-p, drops what is below min-p,
// and draws. Ties go to the lower token id everywhere. Reported log
// probabilities are those of the raw logits, before any of it, as vLLM's are.
//
// What is drawn depends on the logits, the parameters, the tokens so far and,
// through [Params.Seed] and the position in the output, on nothing else: a
// sequence that is stopped and resumed, or runs beside others, gets the same
// tokens.
//
// [StopMatcher] finds stop strings in streamed text. Constraints on the output
// (grammars, schemas) are not made here. The package imports only the standard
// library.
package sample
