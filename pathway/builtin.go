package pathway

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// builtinFiles are calibrations measured on known devices; see the README there.
//
//go:embed builtin
var builtinFiles embed.FS

// Builtin returns the calibration for key that this program brings along, if
// there is one: of the same device, formats and geometry. The version of the
// backend's kernels and the share of layers with an indexer of their own may
// differ: the first makes it less accurate, the second is not part of a cost.
// Its key is key.
func Builtin(key Key) (Calibration, bool) {
	c, ok, err := builtin(builtinFiles, key)
	if err != nil {
		panic(err) // tests read every file
	}
	return c, ok
}

func builtin(files fs.FS, key Key) (Calibration, bool, error) {
	names, err := fs.Glob(files, "builtin/*.json")
	if err != nil {
		return Calibration{}, false, err
	}
	for _, name := range names {
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return Calibration{}, false, err
		}
		c, err := ParseCalibration(data)
		if err != nil {
			return Calibration{}, false, fmt.Errorf("built-in calibration %s: %w", path.Base(name), err)
		}
		if essence(c.Key) == essence(key) {
			c.Key = key
			return c, true, nil
		}
	}
	return Calibration{}, false, nil
}

// essence drops what a built-in calibration need not have in common with
// what it is for.
func essence(k Key) Key {
	k.Backend, _, _ = strings.Cut(k.Backend, " ")
	k.Geometry.IndexedShare = 0
	return k
}
