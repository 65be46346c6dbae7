package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
)

// Key is an API key. Its name stands in the log in its place.
type Key struct{ Name, Key string }

// hashedKey is a key as it is kept: of fixed length, so that a comparison tells
// nothing by the time it takes, and of no use to who reads memory.
type hashedKey struct {
	name string
	sum  [sha256.Size]byte
}

func hashKeys(keys []Key) []hashedKey {
	out := make([]hashedKey, len(keys))
	for i, k := range keys {
		out[i] = hashedKey{k.Name, sha256.Sum256([]byte(k.Key))}
	}
	return out
}

// ParseKeys reads a file of keys: one a line, "name:key" or just "key", with
// empty lines and lines that begin with # left out.
func ParseKeys(text string) ([]Key, error) {
	var keys []Key
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, key, named := strings.Cut(line, ":")
		if !named {
			name, key = fmt.Sprintf("line-%d", i+1), line
		}
		if key == "" {
			return nil, fmt.Errorf("line %d: no key behind the name", i+1)
		}
		keys = append(keys, Key{name, key})
	}
	return keys, nil
}

// SetKeys exchanges the keys; requests that were let in stay.
func (s *Server) SetKeys(keys []Key) {
	hashed := hashKeys(keys)
	s.keys.Store(&hashed)
}

// authenticate checks the request's key: Authorization with or without
// "Bearer", or x-api-key. Without configured keys everything is accepted.
func (s *Server) authenticate(x *exchange) *failure {
	keys := *s.keys.Load()
	if len(keys) == 0 {
		return nil
	}
	given := x.r.Header.Get("Authorization")
	if scheme, rest, found := strings.Cut(given, " "); found && strings.EqualFold(scheme, "Bearer") {
		given = strings.TrimSpace(rest)
	}
	if given == "" {
		given = x.r.Header.Get("X-Api-Key")
	}
	sum := sha256.Sum256([]byte(given))
	match := -1
	for i := range keys { // all of them, so that the time tells nothing
		if subtle.ConstantTimeCompare(sum[:], keys[i].sum[:]) == 1 {
			match = i
		}
	}
	if match < 0 {
		message := "this API key is not known here"
		if given == "" {
			message = "no API key: send it as Authorization: Bearer KEY"
		}
		return &failure{status: http.StatusUnauthorized, kind: kindAuth, code: "invalid_api_key", message: message}
	}
	x.keyName = keys[match].name
	return nil
}
