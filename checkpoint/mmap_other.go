//go:build !unix

package checkpoint

import "os"

// mapFile reads a file where mappings are not available.
func mapFile(path string) (data []byte, unmap func() error, err error) {
	data, err = os.ReadFile(path)
	return data, func() error { return nil }, err
}
