// Package sample turns logits into tokens: greedy and random sampling with
// temperature, top-k, top-p and min-p, penalties, logit bias, and log
// probabilities. It works on one row of float32 logits on the host and imports
// only the standard library.
package sample
