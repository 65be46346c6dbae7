// Package task holds what an evaluation asks and how it marks the answers: the
// readers of data sets (gsm8k, gpqa, mmlu and any four-choice CSV), the
// generators (needle, variable-tracking, arithmetic), the prompts, and the
// extraction of an answer from the text of a model.
//
// It sends nothing and knows no server: a runner asks for the items of a
// repeat, sends their messages or prompt, and hands the text back to be scored.
// What it needs to know of the server's tokens comes in as a function.
//
// Every random choice is a function of a named stream (seed, task, item,
// repeat): adding an item never changes another one.
package task
