package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"latent/checkpoint"
)

func readIDs(path string) ([][]int32, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read token ids: %w", err)
	}
	prompts, err := parseIDs(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return prompts, nil
}

func writeFile(path string, tensors []checkpoint.Tensor) error {
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
