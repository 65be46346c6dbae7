package latent_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"latent"
	"latent/server"
)

// The table of bad input is testdata/bad: what people and programs get wrong,
// with the exact error that each gets. Files that only package checkpoint or
// token can refuse are in their testdata, wrong command lines in
// cmd/latent/testdata/script.

// table runs the cases of one file, and wants at least so many.
func table(t *testing.T, name string, least int, run func(t *testing.T, d *datadriven.TestData) string) {
	cases := 0
	datadriven.RunTest(t, filepath.Join("testdata/bad", name), func(t *testing.T, d *datadriven.TestData) string {
		cases++
		return run(t, d)
	})
	if cases < least && !t.Failed() {
		t.Errorf("%d cases, want at least %d", cases, least)
	}
}

// TestBadFiles loads models from folders with a fault. A case takes a golden
// model, or base=FOLDER, and an edit:
//
//	load write=FILE [remove=FILE]  the input becomes the file
//	load remove=FILE
//	load truncate=FILE to=N        the file's first N bytes
//	load header=FILE               a safetensors file of this header and 64 bytes
//	load override                  the input is laid over config.json
//	load path=P                    loads P instead
func TestBadFiles(t *testing.T) {
	table(t, "files", 14, func(t *testing.T, d *datadriven.TestData) string {
		base := "testdata/golden/deepseek_v32"
		d.MaybeScanArgs(t, "base", &base)
		dir := filepath.Join(t.TempDir(), "faulty")
		if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		// What the golden model answers lies beside its weights, but is no part of them.
		if err := os.Remove(filepath.Join(dir, "golden.safetensors")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		opts := latent.Options{Model: dir, Device: "cpu", Calibration: "builtin"}
		for _, edit := range d.CmdArgs {
			value := strings.Join(edit.Vals, "")
			file, err := filepath.Join(dir, value), error(nil)
			switch edit.Key {
			case "base", "to":
			case "write":
				err = os.WriteFile(file, []byte(d.Input), 0o666)
			case "remove":
				err = os.Remove(file)
			case "truncate":
				var to int64
				d.ScanArgs(t, "to", &to)
				err = os.Truncate(file, to)
			case "header":
				data := binary.LittleEndian.AppendUint64(nil, uint64(len(d.Input)))
				err = os.WriteFile(file, append(append(data, d.Input...), make([]byte, 64)...), 0o666)
			case "override":
				opts.ConfigOverride = d.Input
			case "path":
				opts.Model = value
			default:
				d.Fatalf(t, "unknown edit %s", edit.Key)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		loaded, err := latent.Load(context.Background(), opts)
		if err == nil {
			loaded.Close()
			return "no error"
		}
		if !errors.As(err, new(*latent.CheckpointError)) {
			t.Errorf("%s: %T is no CheckpointError", d.Pos, err)
		}
		return strings.ReplaceAll(err.Error(), dir, "MODEL")
	})
}

var mebibytes = regexp.MustCompile(`\d+ MiB`)

// TestBadOptions opens engines with options that cannot be; the input has the
// fields of latent.Options. Amounts of memory depend on the machine.
func TestBadOptions(t *testing.T) {
	table(t, "options", 20, func(t *testing.T, d *datadriven.TestData) string {
		opts := latent.Options{Device: "cpu", Calibration: "builtin"}
		in := json.NewDecoder(strings.NewReader(d.Input))
		in.DisallowUnknownFields()
		if err := in.Decode(&opts); err != nil {
			d.Fatalf(t, "%v", err)
		}
		e, err := latent.Open(context.Background(), opts)
		if err == nil {
			e.Close()
			return "no error"
		}
		return mebibytes.ReplaceAllString(err.Error(), "N MiB")
	})
}

// TestBadRequests sends requests that must be refused to a server of the demo
// model, which goes on to answer good ones. A request is
//
//	METHOD PATH [key=K]
//	BODY
//
// and its answer the status, the error's type and code, its param and message.
func TestBadRequests(t *testing.T) {
	e, err := latent.Open(context.Background(), latent.Options{Device: "cpu", Calibration: "builtin", MaxTotalTokens: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	s, err := server.New(server.Config{Engine: e, Keys: []server.Key{{Name: "test", Key: "secret"}}, MaxRequestBytes: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	send := func(method, path, key, body string) (int, []byte) {
		t.Helper()
		req, err := http.NewRequest(method, web.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		res, err := web.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, bytes.TrimSpace(data)
	}
	table(t, "requests", 40, func(t *testing.T, d *datadriven.TestData) string {
		key := "secret"
		d.MaybeScanArgs(t, "key", &key)
		status, data := send(strings.ToUpper(d.Cmd), d.CmdArgs[0].Key, key, strings.ReplaceAll(d.Input, "LONG", strings.Repeat("long ", 4200)))
		var answer struct {
			Error struct{ Type, Code, Param, Message string }
		}
		if err := json.Unmarshal(data, &answer); err != nil || answer.Error.Message == "" {
			return fmt.Sprintf("%d %s", status, data)
		}
		out := fmt.Sprintf("%d %s %s\n", status, answer.Error.Type, answer.Error.Code)
		if answer.Error.Param != "" {
			out += "param: " + answer.Error.Param + "\n"
		}
		return out + answer.Error.Message
	})
	good := `{"messages": [{"role": "user", "content": "What is 2 + 3?"}], "temperature": 0}`
	if status, data := send("POST", "/v1/chat/completions", "secret", good); status != http.StatusOK || !bytes.Contains(data, []byte("2 + 3 = 5")) {
		t.Errorf("a good request after them: %d %s", status, data)
	}
}
