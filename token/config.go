package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
)

// Config is tokenizer_config.json, as far as it matters here. The special
// tokens are resolved by their text, never by number.
type Config struct {
	BOSToken    string // bos_token, "" if absent
	EOSToken    string // eos_token
	PadToken    string // pad_token
	AddBOSToken *bool  // add_bos_token, nil if absent
	// ChatTemplate is the (default) Jinja template, "" if the model has none:
	// chat_template, else the file chat_template.jinja.
	ChatTemplate string
	// MaxLength is model_max_length in tokens, 0 if absent or meant as
	// unlimited (transformers writes 1e30).
	MaxLength int
}

// LoadDir reads the tokenizer of a model's folder: tokenizer.json, or else
// tiktoken.model (Kimi-K2, Moonlight); and tokenizer_config.json and
// chat_template.jinja if they exist.
func LoadDir(fsys fs.FS) (*Tokenizer, error) {
	config, added, err := readConfig(fsys)
	if err != nil {
		return nil, err
	}
	var t *Tokenizer
	data, err := fs.ReadFile(fsys, "tokenizer.json")
	if err == nil {
		t, err = Load(data)
	} else if data, err2 := fs.ReadFile(fsys, "tiktoken.model"); errors.Is(err, fs.ErrNotExist) && err2 == nil {
		t, err = loadTiktoken(data, added)
	} else {
		err = fmt.Errorf("read tokenizer: %w (nor is there a usable tiktoken.model)", err)
	}
	if err != nil {
		return nil, err
	}
	t.config = config
	for _, named := range []struct{ key, token string }{
		{"bos_token", config.BOSToken}, {"eos_token", config.EOSToken}, {"pad_token", config.PadToken},
	} {
		if _, ok := t.ids[named.token]; named.token != "" && !ok {
			return nil, fmt.Errorf("read tokenizer_config.json: %s %q is not a token of the tokenizer", named.key, named.token)
		}
	}
	return t, nil
}

// readConfig reads tokenizer_config.json and chat_template.jinja, either of
// which may be missing. added is added_tokens_decoder.
func readConfig(fsys fs.FS) (c Config, added []addedToken, err error) {
	data, err := fs.ReadFile(fsys, "tokenizer_config.json")
	if err == nil {
		c, added, err = parseConfig(data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, nil, fmt.Errorf("read tokenizer_config.json: %w", err)
	}
	if c.ChatTemplate == "" {
		data, err = fs.ReadFile(fsys, "chat_template.jinja")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return c, nil, fmt.Errorf("read chat_template.jinja: %w", err)
		}
		c.ChatTemplate = string(data)
	}
	return c, added, nil
}

func parseConfig(data []byte) (Config, []addedToken, error) {
	var f struct {
		BOS       tokenName             `json:"bos_token"`
		EOS       tokenName             `json:"eos_token"`
		Pad       tokenName             `json:"pad_token"`
		AddBOS    *bool                 `json:"add_bos_token"`
		Template  json.RawMessage       `json:"chat_template"`
		MaxLength float64               `json:"model_max_length"`
		Added     map[string]addedToken `json:"added_tokens_decoder"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return Config{}, nil, err
	}
	c := Config{BOSToken: string(f.BOS), EOSToken: string(f.EOS), PadToken: string(f.Pad), AddBOSToken: f.AddBOS}
	if f.MaxLength > 0 && f.MaxLength < math.MaxInt32 {
		c.MaxLength = int(f.MaxLength)
	}
	var err error
	if c.ChatTemplate, err = parseTemplate(f.Template); err != nil {
		return c, nil, err
	}
	added, err := addedByID(f.Added)
	return c, added, err
}

// parseTemplate reads chat_template: a template, or a list of named ones, of
// which "default" is taken.
func parseTemplate(data json.RawMessage) (string, error) {
	if len(data) == 0 {
		return "", nil
	}
	var text *string
	if json.Unmarshal(data, &text) == nil {
		if text == nil {
			return "", nil
		}
		return *text, nil
	}
	var named []struct{ Name, Template string }
	if json.Unmarshal(data, &named) != nil {
		return "", errors.New("chat_template is neither a text nor a list of named texts")
	}
	for _, n := range named {
		if n.Name == "default" {
			return n.Template, nil
		}
	}
	return "", nil
}

// tokenName is a token given as its text, as an object with "content", or null.
type tokenName string

func (n *tokenName) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, (*string)(n)) == nil {
		return nil
	}
	var object struct{ Content string }
	if err := json.Unmarshal(data, &object); err != nil {
		return fmt.Errorf("special token %.80s is neither a text nor an object with content", data)
	}
	*n = tokenName(object.Content)
	return nil
}
