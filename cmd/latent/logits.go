package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"latent"
	"latent/checkpoint"
	"latent/device"
)

type inspectLogits struct {
	IDsFile string `name:"ids-file" required:"" help:"JSON file with an array of token ids, or an array of arrays run as one batch." placeholder:"F.json"`
	Out     string `required:"" help:"The safetensors file to write." placeholder:"O.safetensors"`

	modelFlags
}

// Help describes the output.
func (*inspectLogits) Help() string {
	return `The file written has, for every prompt i of the file with token ids, from 0:
  logits.{i}          F32 [tokens, vocabulary], for every position
  topk.{i}.layer{l}   I32 [tokens, min(tokens, index_topk)], the positions that the indexer of layer l selected, ascending, padded
                      with -1: everything up to the token where nothing needs to be selected. Only layers with an indexer of their own.
--chunked-prefill-size N gives every prompt N tokens in a step; without it a prompt is one step.`
}

// Run computes the logits of every position.
func (c *inspectLogits) Run(t *terminal) error {
	prompts, err := readIDs(c.IDsFile)
	if err != nil {
		return err
	}
	// Better now than after the computation.
	if info, err := os.Stat(filepath.Dir(c.Out)); err != nil || !info.IsDir() {
		return fmt.Errorf("--out %s: there is no folder %s", c.Out, filepath.Dir(c.Out))
	}
	o := c.options(t.progress)
	chunk := o.ChunkedPrefillSize // 0: whole prompts
	pages, rows := 0, 0
	for _, p := range prompts {
		pages += (len(p) + device.PageTokens - 1) / device.PageTokens
		if chunk > 0 {
			rows += min(len(p), chunk)
		} else {
			rows += len(p)
		}
	}
	if o.MaxTotalTokens == 0 {
		o.MaxTotalTokens = max(2, pages) * device.PageTokens
	}
	o.ChunkedPrefillSize, o.MaxRunning = rows, len(prompts) // what a step's workspace is for
	l, err := latent.Load(context.Background(), o)
	if err != nil {
		return err
	}
	defer l.Close()
	results, err := l.Evaluate(prompts, chunk)
	if err != nil {
		return err
	}
	var tensors []checkpoint.Tensor
	for i, r := range results {
		tensors = append(tensors, checkpoint.Tensor{
			Name: fmt.Sprintf("logits.%d", i), Type: device.F32, Shape: []int{len(prompts[i]), l.Config().Vocab},
			Data: float32Bytes(r.Logits),
		})
		for _, layer := range l.Config().Indexed() {
			k := min(len(prompts[i]), l.Config().Indexer.TopK)
			tensors = append(tensors, checkpoint.Tensor{
				Name: fmt.Sprintf("topk.%d.layer%d", i, layer), Type: device.I32, Shape: []int{len(prompts[i]), k},
				Data: selectionBytes(r.Selected[layer], k),
			})
		}
	}
	if err := writeTensors(c.Out, tensors); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.out, "wrote %d tensors for %d prompts to %s\n", len(tensors), len(prompts), c.Out)
	return err
}

func readIDs(path string) ([][]int32, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read token ids: %w", err)
	}
	prompts, err := parseIDs(data)
	if err != nil {
		return nil, fmt.Errorf("read token ids: %s: %w", path, err)
	}
	return prompts, nil
}

// parseIDs reads an array of ids or an array of arrays.
func parseIDs(data []byte) ([][]int32, error) {
	const want = "an array of token ids or an array of such arrays"
	var elements []json.RawMessage
	if err := json.Unmarshal(data, &elements); err != nil {
		if !json.Valid(data) {
			return nil, fmt.Errorf("want JSON, %s: %w", want, err)
		}
		return nil, fmt.Errorf("found %.20s, want %s", data, want)
	}
	if len(elements) == 0 {
		return nil, fmt.Errorf("found an empty array, want %s", want)
	}
	if elements[0][0] != '[' {
		elements = []json.RawMessage{data}
	}
	prompts := make([][]int32, len(elements))
	for i, e := range elements {
		var ids []json.RawMessage
		if err := json.Unmarshal(e, &ids); err != nil || len(ids) == 0 {
			return nil, fmt.Errorf("prompt %d: found %.20s, want an array of at least one token id", i, e)
		}
		for k, id := range ids {
			n, err := strconv.ParseInt(string(id), 10, 32)
			if err != nil {
				return nil, fmt.Errorf("prompt %d: found %.20s as number %d, want a token id", i, id, k)
			}
			prompts[i] = append(prompts[i], int32(n))
		}
	}
	return prompts, nil
}

func writeTensors(path string, tensors []checkpoint.Tensor) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(checkpoint.WriteSafetensors(f, tensors), f.Close())
}

func float32Bytes(v []float32) []byte {
	out := make([]byte, 0, 4*len(v))
	for _, x := range v {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
	}
	return out
}

// selectionBytes writes rows of at most k positions, padded with −1.
func selectionBytes(rows [][]int32, k int) []byte {
	out := make([]byte, 0, 4*k*len(rows))
	for _, positions := range rows {
		for i := range k {
			p := int32(-1)
			if i < len(positions) {
				p = positions[i]
			}
			out = binary.LittleEndian.AppendUint32(out, uint32(p))
		}
	}
	return out
}
