package token

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// patternKimi cuts text for Kimi-K2 and Moonlight, whose files do not hold it:
// like GLM's, but runs of Han stand apart, a word ends where small letters are
// followed by capitals, and a contraction stays with its word.
const patternKimi = `[\p{Han}]+` +
	`|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?` +
	`|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?` +
	`|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// loadTiktoken reads a tiktoken.model as Kimi-K2 and Moonlight have it: lines
// of a token's bytes in base64 and its rank, which is its id. There is no list
// of merges: two neighbours merge if their bytes together are a token, the one
// of lowest rank first, and a piece that is a token is never merged.
//
// added are the special tokens, which that file does not hold: they are
// added_tokens_decoder of tokenizer_config.json.
func loadTiktoken(data []byte, added []addedToken) (*Tokenizer, error) {
	t, err := newTiktoken(data, added)
	if err != nil {
		return nil, fmt.Errorf("read tiktoken.model: %w", err)
	}
	return t, nil
}

func newTiktoken(data []byte, added []addedToken) (*Tokenizer, error) {
	ranks, err := parseRanks(data)
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{ids: make(map[string]int32, len(ranks)), raw: newAddedSet(), normalized: newAddedSet()}
	t.model = bpe{merges: make(map[pair]merge, 2*len(ranks)), whole: ranks, cache: newPieceCache()}
	split, err := patternSplitter(patternKimi)
	if err != nil {
		return nil, err
	}
	t.stages = []splitter{split}
	for b := range t.model.bytes {
		id, ok := ranks[string([]byte{byte(b)})]
		if !ok {
			return nil, fmt.Errorf("there is no token for the byte 0x%02X", b)
		}
		t.model.bytes[b] = id
	}
	for token, id := range ranks {
		if err := t.enter(spelling(token), token, id); err != nil {
			return nil, err
		}
		for i := 1; i < len(token); i++ {
			left, ok1 := ranks[token[:i]]
			right, ok2 := ranks[token[i:]]
			if ok1 && ok2 {
				t.model.merges[pair{left, right}] = merge{uint32(id), id}
			}
		}
	}
	for _, tok := range added {
		// The vocabulary's tokens are spelled in the byte alphabet, so an
		// added one with the content of another is a contradiction here.
		if id, ok := t.ids[tok.Content]; ok {
			return nil, fmt.Errorf("added token %q is the token %d already", tok.Content, id)
		}
		if err := t.enterAdded(tok); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// maxTokenBytes bounds the length of a token: the work of finding what merges
// into it grows with its square.
const maxTokenBytes = 1 << 10

// parseRanks reads lines of base64 and rank.
func parseRanks(data []byte) (map[string]int32, error) {
	ranks := make(map[string]int32, bytes.Count(data, []byte("\n"))+1)
	number := 0
	for line := range bytes.Lines(data) {
		number++
		fields := bytes.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d is not a token and its rank", number)
		}
		token, err := base64.StdEncoding.AppendDecode(nil, fields[0])
		if err == nil && (len(token) == 0 || len(token) > maxTokenBytes) {
			err = errors.New("token is empty or too long")
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		rank, err := strconv.ParseInt(string(fields[1]), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("line %d: rank: %w", number, err)
		}
		if _, ok := ranks[string(token)]; ok {
			return nil, fmt.Errorf("line %d: token %q is there already", number, token)
		}
		ranks[string(token)] = int32(rank)
	}
	return ranks, nil
}

// addedByID is added_tokens_decoder of tokenizer_config.json, in order of ids.
func addedByID(decoder map[string]addedToken) ([]addedToken, error) {
	var out []addedToken
	for key, tok := range decoder {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("added_tokens_decoder: %q is not an id", key)
		}
		tok.ID = int32(id)
		out = append(out, tok)
	}
	slices.SortFunc(out, func(a, b addedToken) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}
