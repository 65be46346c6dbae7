package kern

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The committed assembly is what the generator writes.
func TestGenerateChangesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the generator")
	}
	dir := t.TempDir()
	tool := filepath.Join(dir, "gen")
	build := exec.Command("go", "build", "-o", tool, ".")
	build.Dir = "gen"
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("the generator does not build here (its modules may be out of reach): %v\n%s", err, out)
	}
	for _, isa := range []string{"avx512", "avx512bf16", "avx2"} {
		asm, stubs := isa+"_amd64.s", isa+"_amd64.go"
		cmd := exec.Command(tool, "-isa", isa, "-out", filepath.Join(dir, asm), "-stubs", filepath.Join(dir, stubs), "-pkg", "kern")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("gen -isa %s: %v\n%s", isa, err, out)
		}
		for _, name := range []string{asm, stubs} {
			if !bytes.Equal(body(t, name), body(t, filepath.Join(dir, name))) {
				t.Errorf("%s is not what the generator writes; run go generate", name)
			}
		}
	}
}

// body is a generated file without its first line, which tells the command.
func body(t *testing.T, name string) []byte {
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(b, []byte("\n"))
	return rest
}
