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

// LoadDir reads tokenizer.json and, if they exist, tokenizer_config.json and
// chat_template.jinja from a model's folder.
func LoadDir(fsys fs.FS) (*Tokenizer, error) {
	data, err := fs.ReadFile(fsys, "tokenizer.json")
	if err != nil {
		return nil, fmt.Errorf("read tokenizer: %w", err)
	}
	t, err := Load(data)
	if err != nil {
		return nil, err
	}
	data, err = fs.ReadFile(fsys, "tokenizer_config.json")
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read tokenizer: %w", err)
	default:
		if t.config, err = parseConfig(data); err != nil {
			return nil, fmt.Errorf("read tokenizer_config.json: %w", err)
		}
		for _, named := range []struct{ key, token string }{
			{"bos_token", t.config.BOSToken}, {"eos_token", t.config.EOSToken}, {"pad_token", t.config.PadToken},
		} {
			if _, ok := t.ids[named.token]; named.token != "" && !ok {
				return nil, fmt.Errorf("read tokenizer_config.json: %s %q is not in tokenizer.json", named.key, named.token)
			}
		}
	}
	if t.config.ChatTemplate == "" {
		data, err = fs.ReadFile(fsys, "chat_template.jinja")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read tokenizer: %w", err)
		}
		t.config.ChatTemplate = string(data)
	}
	return t, nil
}

func parseConfig(data []byte) (Config, error) {
	var f struct {
		BOS       tokenName       `json:"bos_token"`
		EOS       tokenName       `json:"eos_token"`
		Pad       tokenName       `json:"pad_token"`
		AddBOS    *bool           `json:"add_bos_token"`
		Template  json.RawMessage `json:"chat_template"`
		MaxLength float64         `json:"model_max_length"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return Config{}, err
	}
	c := Config{BOSToken: string(f.BOS), EOSToken: string(f.EOS), PadToken: string(f.Pad), AddBOSToken: f.AddBOS}
	if f.MaxLength > 0 && f.MaxLength < math.MaxInt32 {
		c.MaxLength = int(f.MaxLength)
	}
	var err error
	c.ChatTemplate, err = parseTemplate(f.Template)
	return c, err
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
