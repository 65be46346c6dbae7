package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cockroachdb/datadriven"
)

// TestBadInput runs the scripts in testdata/bad: inputs that must be refused,
// each with the exact error. Commands:
//
//	config [golden=NAME | released=NAME]  the input is laid over that config.json, or stands alone
//	drop golden=NAME key=KEY              parses that config.json without KEY
//	generation                            the input is a generation_config.json
//	header data=N                         the input is a safetensors header, N bytes of data follow
//	bytes                                 the input is Go-quoted bytes of a safetensors file
//	index                                 the input is a shard index
//	folder                                the input lists the files of a model folder
//	tensors golden=NAME                   the input edits the tensors of that golden model, which is verified
func TestBadInput(t *testing.T) {
	datadriven.Walk(t, "testdata/bad", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			err := runBad(t, d)
			if err == nil {
				return "no error"
			}
			return err.Error()
		})
	})
}

func runBad(t *testing.T, d *datadriven.TestData) error {
	arg := func(key string) string {
		var s string
		d.MaybeScanArgs(t, key, &s)
		return s
	}
	configFile := func() map[string]any {
		path := releasedPath(arg("released"))
		if name := arg("golden"); name != "" {
			path = filepath.Join(goldenDir, name, "config.json")
		}
		data, err := os.ReadFile(path)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		m, err := decodeObject(data)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return m
	}
	switch d.Cmd {
	case "config":
		if len(d.CmdArgs) == 0 {
			_, err := ParseConfig([]byte(d.Input))
			return err
		}
		data, _ := json.Marshal(configFile())
		_, err := ParseConfig(data, []byte(d.Input))
		return err
	case "drop":
		m := configFile()
		delete(m, arg("key"))
		data, _ := json.Marshal(m)
		_, err := ParseConfig(data)
		return err
	case "generation":
		_, err := ParseGenerationConfig([]byte(d.Input))
		return err
	case "header":
		n, _ := strconv.Atoi(arg("data"))
		_, err := parseHeader(rawFile(d.Input, make([]byte, n)))
		return err
	case "bytes":
		s, err := strconv.Unquote(strings.TrimSpace(d.Input))
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		_, err = parseHeader([]byte(s))
		return err
	case "index":
		_, err := parseIndex([]byte(d.Input))
		return err
	case "folder":
		return badFolder(t, d)
	case "tensors":
		return badTensors(t, d, arg("golden"))
	}
	d.Fatalf(t, "unknown command")
	return nil
}

// badFolder opens a folder. Each line of the input is a file: its name, then
// either "=" and its text ("@NAME" stands for a golden model's configuration),
// or names of one-element tensors.
func badFolder(t *testing.T, d *datadriven.TestData) error {
	fsys := fstest.MapFS{}
	for line := range strings.Lines(d.Input) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		text, isText := strings.CutPrefix(rest, "= ")
		if isText {
			fsys[name] = &fstest.MapFile{Data: []byte(text)}
			continue
		}
		var tensors []rawTensor
		for _, x := range strings.Fields(rest) {
			tensors = append(tensors, rawTensor{x, "F32", []int{1}, make([]byte, 4)})
		}
		fsys[name] = &fstest.MapFile{Data: rawSafetensors(t, 0, tensors...)}
	}
	if _, ok := fsys["config.json"]; ok && fsys["config.json"].Data[0] == '@' {
		golden := folderFS(t, string(fsys["config.json"].Data[1:]), "", nil)
		fsys["config.json"] = golden["config.json"]
	}
	c, err := OpenFS(fsys, "bad")
	if err != nil {
		return err
	}
	return c.Verify()
}

// badTensors edits a golden model's tensors line by line (drop NAME, shape
// NAME DIMS…, type NAME DTYPE, add NAME DTYPE DIMS…, cut BYTES from the end of
// the file), then opens and verifies it.
func badTensors(t *testing.T, d *datadriven.TestData, golden string) error {
	f, err := OpenFile(filepath.Join(goldenDir, golden, "model.safetensors"))
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	defer f.Close()
	all := map[string]rawTensor{}
	for name, x := range f.tensors {
		all[name] = rawTensor{name, x.dtype, x.shape, f.files[0].data[x.begin:x.end]}
	}
	cut := 0
	for line := range strings.Lines(d.Input) {
		w := strings.Fields(line)
		x, ok := all[w[1]]
		if !ok && w[0] != "add" && w[0] != "cut" {
			d.Fatalf(t, "no tensor %s", w[1])
		}
		dims := func(from int) (shape []int) {
			for _, s := range w[from:] {
				n, err := strconv.Atoi(s)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				shape = append(shape, n)
			}
			return shape
		}
		switch w[0] {
		case "drop":
			delete(all, w[1])
			continue
		case "shape":
			x.shape = dims(2)
		case "type":
			x.dtype = w[2]
		case "add":
			x = rawTensor{w[1], w[2], dims(3), nil}
		case "cut":
			cut = dims(1)[0]
			continue
		default:
			d.Fatalf(t, "unknown edit %s", w[0])
		}
		n := int(dtypeBits(x.dtype) / 8)
		for _, s := range x.shape {
			n *= s
		}
		x.data = make([]byte, n)
		if strings.HasSuffix(w[1], "_scale_inv") {
			for i := range x.data {
				x.data[i] = 0xff // NaN in every type
			}
		}
		all[w[1]] = x
	}
	var list []rawTensor
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name])
	}
	data := rawSafetensors(t, 0, list...)
	fsys := folderFS(t, golden, "", map[string][]byte{"model.safetensors": data[:len(data)-cut]})
	c, err := OpenFS(fsys, "bad")
	if err != nil {
		return err
	}
	if err := c.Verify(); err != nil {
		return err
	}
	return fmt.Errorf("no error, unused: %v", c.Unused())
}
