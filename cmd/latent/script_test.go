package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestMain lets this test binary be the command latent: under that name, which
// it puts on the path.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "latent" {
		main()
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "latent")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Symlink(self, filepath.Join(dir, "latent")); err != nil {
		panic(err)
	}
	os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return m.Run()
}

// TestScripts runs the shell sessions of testdata/script. Every "run" gives its
// input to sh, in a folder that the sessions of a file share; what comes out,
// on standard output and then on standard error, and an exit code other than 0,
// must be as written. They compute on the CPU. $GOLDEN, $ODD and $CONFIGS are folders of models and
// configurations. "tensors FILE" lists what a safetensors file holds.
func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("there is no sh")
	}
	datadriven.Walk(t, "testdata/script", func(t *testing.T, path string) {
		work := t.TempDir()
		dirs := map[string]string{"HOME": work, "GOLDEN": goldenDir, "ODD": "testdata/odd", "CONFIGS": "../../configs"}
		for name, dir := range dirs {
			abs, err := filepath.Abs(dir)
			if err != nil {
				t.Fatal(err)
			}
			dirs[name] = abs
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "run":
				return session(t, d.Input, dirs)
			case "tensors":
				f := openTensors(t, filepath.Join(work, d.CmdArgs[0].Key))
				var out strings.Builder
				for _, name := range f.names {
					fmt.Fprintln(&out, name, f.shapes[name])
				}
				return out.String()
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

// session runs a shell session in dirs["HOME"], with dirs as its environment
// and by their names in what is returned.
func session(t *testing.T, input string, dirs map[string]string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", input)
	cmd.Dir, cmd.Env = dirs["HOME"], []string{"PATH=" + os.Getenv("PATH"), "LATENT_DEVICE=cpu"}
	for name, dir := range dirs {
		cmd.Env = append(cmd.Env, name+"="+dir)
	}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	out := stdout.String() + stderr.String()
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		out += fmt.Sprintf("exit code %d\n", code)
	}
	for name, dir := range dirs {
		out = strings.ReplaceAll(out, dir, "$"+name)
	}
	return out
}

// TestSignals interrupts an answer: it ends at once, with a whole line and the
// exit code of the signal.
func TestSignals(t *testing.T) {
	for _, c := range []struct {
		signal  syscall.Signal
		code    int
		message string
	}{
		{syscall.SIGINT, 130, "latent: interrupt\n"},
		{syscall.SIGTERM, 143, "latent: terminated\n"},
	} {
		cmd := exec.Command("latent", "generate", "--device", "cpu", "--raw", "--seed", "1", "--calibration", "builtin", "It was late when")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		stdout, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		out := bufio.NewReader(stdout)
		var text []byte
		for len(text) < 20 {
			b, err := out.ReadByte()
			if err != nil {
				t.Fatalf("the answer ended after %q: %v, %s", text, err, stderr.String())
			}
			text = append(text, b)
		}
		if err := cmd.Process.Signal(c.signal); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the exit code is looked at below
		if code := cmd.ProcessState.ExitCode(); code != c.code || stderr.String() != c.message {
			t.Errorf("%v: exit code %d and %q, want %d and %q", c.signal, code, stderr.String(), c.code, c.message)
		}
		if text = append(text, rest...); text[len(text)-1] != '\n' {
			t.Errorf("%v: the output ends with %q, not with a line's end", c.signal, text[len(text)-10:])
		}
	}
}

// TestBenchInterrupted interrupts a load: the table has what there is.
func TestBenchInterrupted(t *testing.T) {
	cmd := exec.Command("latent", "bench", "serve", "--offline", "--device", "cpu", "--calibration", "builtin", "--num-prompts", "1000",
		"--random-input", "10", "--random-output", "4", "--arrival", "constant 20", "--print-requests", "--output-file", "none")
	var stdout strings.Builder
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if strings.Contains(lines.Text(), "request 3/0") {
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // the exit code is looked at below
	if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.HasPrefix(stdout.String(), "INTERRUPTED: ") || !strings.Contains(stdout.String(), "Successful requests") {
		t.Errorf("exit code %d:\n%s", code, stdout.String())
	}
}
