package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"latent/device"
)

// Checkpoint is a model on disk, or one made up from a configuration.
type Checkpoint struct {
	Name       string // last part of the path
	Path       string // of the folder; "" if it came from an fs.FS
	Config     *Config
	Generation GenerationConfig
	Weights    Weights
	// Folder holds the other files: tokenizer.json, tokenizer_config.json,
	// chat templates.
	Folder fs.FS
}

// Options say how to open a checkpoint.
type Options struct {
	Override string // JSON object laid over config.json; "" for none
	// Dummy makes up weights from the configuration (load format dummy). Then
	// the path may also name a configuration file.
	Dummy bool
	Seed  uint64       // of dummy weights
	DType device.DType // of dummy weights, see [Dummy]; Invalid follows the configuration
}

// Sizes of small files that are read whole.
const (
	maxConfigFile = 16 << 20
	maxIndexFile  = 512 << 20
)

// Open opens the model in the folder dir: config.json, generation_config.json
// (which may be missing) and the weights in model.safetensors, in the shards of
// model.safetensors.index.json or else in all *.safetensors files. It reads
// headers only; [Checkpoint.Verify] compares them with the configuration.
func Open(dir string, opts Options) (*Checkpoint, error) {
	name := filepath.Base(filepath.Clean(dir))
	if abs, err := filepath.Abs(dir); err == nil {
		name = filepath.Base(abs)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	config := "config.json"
	if !info.IsDir() {
		if !opts.Dummy {
			return nil, fmt.Errorf("open model: found the file %s, want a folder with config.json and *.safetensors", dir)
		}
		dir, config = filepath.Split(dir)
		dir = filepath.Clean(dir)
		name = strings.TrimSuffix(config, ".json")
	}
	return open(folder{os.DirFS(dir), dir, func(file string) ([]byte, func() error, error) {
		return mapFile(filepath.Join(dir, file))
	}}, name, config, opts)
}

// OpenFS opens the model at the root of fsys, such as an embedded one, and
// calls it name. Weights are read into memory, by the ReadFile method of fsys
// if it has one.
func OpenFS(fsys fs.FS, name string) (*Checkpoint, error) {
	return open(fsFolder(fsys), name, "config.json", Options{})
}

func fsFolder(fsys fs.FS) folder {
	return folder{fsys, "", func(file string) ([]byte, func() error, error) {
		data, err := fs.ReadFile(fsys, file)
		return data, func() error { return nil }, err
	}}
}

// folder is where a checkpoint's files are. load gives all bytes of a file.
type folder struct {
	fs.FS
	path string
	load func(file string) (data []byte, free func() error, err error)
}

// at names a file for an error message.
func (f folder) at(name string) string { return filepath.Join(f.path, name) }

// small reads a file of bounded size.
func (f folder) small(name string, limit int64) ([]byte, error) {
	r, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("found more than %d bytes, want a file of at most that size", limit)
	}
	return data, err
}

func open(f folder, name, config string, opts Options) (*Checkpoint, error) {
	c := &Checkpoint{Name: name, Path: f.path, Folder: f.FS, Generation: defaultGeneration()}
	data, err := f.small(config, maxConfigFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.at(config), reason(err))
	}
	var overrides [][]byte
	if opts.Override != "" {
		overrides = append(overrides, []byte(opts.Override))
	}
	if c.Config, err = ParseConfig(data, overrides...); err != nil {
		return nil, fmt.Errorf("%s: %w", f.at(config), err)
	}
	const generation = "generation_config.json"
	switch data, err = f.small(generation, maxConfigFile); {
	case err == nil:
		if c.Generation, err = ParseGenerationConfig(data); err != nil {
			return nil, fmt.Errorf("%s: %w", f.at(generation), err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", f.at(generation), reason(err))
	}
	if opts.Dummy {
		c.Weights = Dummy(c.Config, opts.Seed, opts.DType)
		return c, nil
	}
	files, err := openWeights(f)
	if err != nil {
		return nil, err
	}
	c.Weights = files
	return c, nil
}

// reason drops the path that errors of io/fs repeat.
func reason(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// openWeights finds and opens the safetensors files of a folder.
func openWeights(f folder) (*Files, error) {
	const single, indexName = "model.safetensors", "model.safetensors.index.json"
	w := &Files{tensors: map[string]located{}}
	err := func() error {
		if _, err := fs.Stat(f, single); err == nil {
			return w.addFrom(f, single, nil)
		}
		data, err := f.small(indexName, maxIndexFile)
		if err == nil {
			return w.addShards(f, indexName, data)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", f.at(indexName), reason(err))
		}
		names, err := fs.Glob(f, "*.safetensors")
		if err != nil || len(names) == 0 {
			return fmt.Errorf("%s: found no weights, want %s, %s or other *.safetensors files; to run without weights use the load format dummy",
				cmp.Or(f.path, "model folder"), single, indexName)
		}
		slices.Sort(names)
		for _, name := range names {
			if err := w.addFrom(f, name, nil); err != nil {
				return err
			}
		}
		return nil
	}()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	const wrapper = "language_model."
	_, plain := w.tensors["model.embed_tokens.weight"]
	if _, wrapped := w.tensors[wrapper+"model.embed_tokens.weight"]; wrapped && !plain {
		w.prefix = wrapper
	}
	return w, nil
}

func (f *Files) addFrom(dir folder, name string, keep func(string) bool) error {
	return f.add(dir.at(name), func() ([]byte, func() error, error) {
		data, free, err := dir.load(name)
		if err != nil {
			err = fmt.Errorf("%s: %w", dir.at(name), reason(err))
		}
		return data, free, err
	}, keep)
}

// addShards opens the files of an index and takes the tensors it lists.
func (f *Files) addShards(dir folder, indexName string, data []byte) error {
	x, err := parseIndex(data)
	if err != nil {
		return fmt.Errorf("%s: %w", dir.at(indexName), err)
	}
	var missing []string
	for _, shard := range x.shards {
		if _, err := fs.Stat(dir, shard); err != nil {
			missing = append(missing, shard)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s: %d of %d files are missing: %s", dir.at(indexName), len(missing), len(x.shards), shorten(missing, 3))
	}
	for _, shard := range x.shards {
		if err := f.addFrom(dir, shard, func(t string) bool { return x.of[t] == shard }); err != nil {
			return err
		}
	}
	var absent []string
	for t := range x.of {
		if _, ok := f.tensors[t]; !ok {
			absent = append(absent, t)
		}
	}
	if len(absent) > 0 {
		slices.Sort(absent)
		return fmt.Errorf("%s: tensor %s is not in %s, where the index says it is (%d such tensors)",
			dir.at(indexName), quoteName(absent[0]), x.of[absent[0]], len(absent))
	}
	return nil
}

// shorten joins the first n of names.
func shorten(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}

// Close releases the weights.
func (c *Checkpoint) Close() error { return c.Weights.Close() }

// HasTokenizer tells whether the folder has a tokenizer: tokenizer.json or
// tiktoken.model.
func (c *Checkpoint) HasTokenizer() bool {
	for _, name := range []string{"tokenizer.json", "tiktoken.model"} {
		if _, err := fs.Stat(c.Folder, name); err == nil {
			return true
		}
	}
	return false
}

// HasMTP tells whether the multi-token-prediction layers that the configuration
// announces are there: configurations often name them where files lack them.
func (c *Checkpoint) HasMTP() bool {
	return c.Config.MTPLayers > 0 && c.Weights.Has(layerPrefix(c.Config.Layers)+"eh_proj.weight")
}

// StopTokens returns the ids that end a completion: those of
// generation_config.json and of config.json, ascending.
func (c *Checkpoint) StopTokens() []int {
	ids := slices.Concat(c.Generation.EOS, c.Config.EOS)
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Verify compares the weights with the configuration: every expected tensor
// must be there with its shape, a readable type and, if FP8, its scales. MTP
// layers are checked if [Checkpoint.HasMTP]. The error lists the first
// problems.
func (c *Checkpoint) Verify() error {
	const most = 8
	var errs []error
	mtp := c.HasMTP()
	n := 0
	for _, s := range Expected(c.Config) {
		if s.MTP && !mtp || s.Optional && !c.Weights.Has(s.Name) {
			continue
		}
		if err := c.check(s); err != nil {
			if n++; n <= most {
				errs = append(errs, err)
			}
		}
	}
	if n > most {
		errs = append(errs, fmt.Errorf("and %d more problems with tensors", n-most))
	}
	return errors.Join(errs...)
}

func (c *Checkpoint) check(s TensorSpec) error {
	files, ok := c.Weights.(*Files)
	if !ok {
		return nil // made from the same list
	}
	t, at, err := files.describe(s.Name, s.Shape)
	if err != nil {
		return err
	}
	if _, single := files.tensors[files.prefix+s.Name]; !single {
		// A fused tensor with more experts than expected would do as well.
		if e, _ := files.fused(s.Name); e.shape[0] != c.Config.Experts {
			return fmt.Errorf("%s: tensor %s: found %d experts, want %d", files.files[at.file].name, e.name, e.shape[0], c.Config.Experts)
		}
	}
	want := "F32, BF16 or F16"
	linear := s.Role == Projection || s.Role == Expert || s.Role == Plain
	if linear {
		want = "F32, BF16, F16 or F8_E4M3"
	}
	switch t.Type {
	case device.F32, device.BF16, device.F16:
		return nil
	case device.F8E4M3:
		if linear {
			return nil
		}
	}
	return fmt.Errorf("%s: tensor %s: found dtype %s, want %s", files.files[at.file].name, s.Name, at.dtype, want)
}

// Stored lists the tensors by name. FP8 scales in files are listed as tensors
// of their own.
func (c *Checkpoint) Stored() []Stored {
	switch w := c.Weights.(type) {
	case *Files:
		return w.Stored()
	case *dummy:
		return w.stored()
	}
	return nil
}

// Unused lists stored tensors that the configuration does not call for. They
// are ignored.
func (c *Checkpoint) Unused() []string {
	files, ok := c.Weights.(*Files)
	if !ok {
		return nil
	}
	used := map[string]bool{}
	for _, s := range Expected(c.Config) {
		used[s.Name] = true
		if t, ok := files.tensors[files.prefix+s.Name]; ok {
			if t.dtype == "F8_E4M3" {
				used[s.Name+"_scale_inv"] = true
			}
		} else if e, ok := files.fused(s.Name); ok {
			used[e.name] = true
		}
	}
	var unused []string
	for _, s := range files.Stored() {
		if !used[s.Name] {
			unused = append(unused, s.Name)
		}
	}
	return unused
}
