package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"latent/device/cuda/driver"
)

type inspectGPU struct {
	CUDAPath string `name:"cuda-path" help:"Folder to look for CUDA's libraries in before all others." placeholder:"DIR"`
	JSON     bool   `help:"Print JSON."`
}

// Help says what becomes of a machine without one.
func (*inspectGPU) Help() string {
	return "A machine without a GPU is no error: the report says what is missing and what to do."
}

// Run prints what there is.
func (c *inspectGPU) Run(t *terminal) error {
	report := findGPUs(driver.Search{Dir: c.CUDAPath})
	if c.JSON {
		out := json.NewEncoder(t.out)
		out.SetIndent("", "  ")
		return out.Encode(report)
	}
	return report.print(t.out)
}

// gpuReport is what latent inspect gpu tells.
type gpuReport struct {
	Driver    libraryReport `json:"driver"`
	Compiler  libraryReport `json:"nvrtc"`
	BLAS      libraryReport `json:"cublaslt"`
	GPUs      []gpuDevice   `json:"gpus"`
	Usable    bool          `json:"usable"`    // by latent, with --device cuda
	Obstacles []string      `json:"obstacles"` // what is missing, and what to do; some matter only later
}

// libraryReport is a library, or nothing.
type libraryReport struct {
	Found   bool   `json:"found"`
	Version string `json:"version,omitempty"`
	Path    string `json:"path,omitempty"`
}

// gpuDevice is driver.DeviceInfo, named for JSON.
type gpuDevice struct {
	Ordinal      int    `json:"ordinal"`
	Name         string `json:"name"`
	Capability   string `json:"compute_capability"`
	SMs          int    `json:"sms"`
	Memory       int64  `json:"memory_bytes"`
	Free         int64  `json:"free_bytes"` // -1 if unknown
	L2           int64  `json:"l2_bytes"`
	SharedMemory int    `json:"shared_memory_per_block_bytes"`
	PCI          string `json:"pci"`
	UUID         string `json:"uuid"`
}

// capability is what the kernels are written for: Hopper.
const capability = "9.0"

// findGPUs looks at all that a GPU needs.
func findGPUs(s driver.Search) *gpuReport {
	r := &gpuReport{GPUs: []gpuDevice{}, Obstacles: []string{}}
	obstacle := func(err error) {
		if err != nil {
			r.Obstacles = append(r.Obstacles, err.Error())
		}
	}
	cuda, err := driver.OpenCUDA(s)
	obstacle(err)
	driverVersion := 0
	var list []driver.DeviceInfo
	if err == nil {
		driverVersion = cuda.DriverVersion()
		r.Driver = libraryReport{true, "CUDA " + dotted(driverVersion, 1000, 10), cuda.Path()}
		list, err = cuda.Devices()
		obstacle(err)
	}
	nvrtc, err := driver.OpenNVRTC(s)
	obstacle(err)
	if err == nil {
		major, minor := nvrtc.Version()
		r.Compiler = libraryReport{true, fmt.Sprintf("%d.%d", major, minor), nvrtc.Path()}
		if driverVersion > 0 && major > driverVersion/1000 {
			r.Obstacles = append(r.Obstacles, fmt.Sprintf("NVRTC %d.%d compiles for newer drivers than this one, which is for CUDA %s: update the driver, or name an older NVRTC with --cuda-path",
				major, minor, dotted(driverVersion, 1000, 10)))
		}
	}
	blas, err := driver.OpenBLAS(s)
	obstacle(err)
	if err == nil {
		r.BLAS = libraryReport{true, dotted(blas.Version(), 10000, 100, 1), blas.Path()}
	}
	r.add(list)
	return r
}

// dotted writes the digits of a version that units take it apart into.
func dotted(version int, units ...int) string {
	text := ""
	for i, unit := range units {
		if i > 0 {
			text += "."
		}
		text += fmt.Sprint(version / unit)
		version %= unit
	}
	return text
}

// add adds the devices, and concludes.
func (r *gpuReport) add(list []driver.DeviceInfo) {
	fits := false
	for _, d := range list {
		g := gpuDevice{d.Ordinal, d.Name, fmt.Sprintf("%d.%d", d.Major, d.Minor), d.SMs, d.Memory, d.Free, d.L2, d.SharedPerBlock, d.PCI, d.UUID}
		r.GPUs = append(r.GPUs, g)
		if g.Capability == capability {
			fits = true
		} else {
			r.Obstacles = append(r.Obstacles, fmt.Sprintf("GPU %d (%s) has compute capability %s; the kernels need %s (Hopper: H100, H200, H20)", g.Ordinal, g.Name, g.Capability, capability))
		}
	}
	r.Usable = fits && r.Driver.Found && r.Compiler.Found && r.BLAS.Found
}

// print writes the report for people.
func (r *gpuReport) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, l := range []struct {
		name string
		libraryReport
	}{{"driver", r.Driver}, {"NVRTC", r.Compiler}, {"cuBLASLt", r.BLAS}} {
		if l.Found {
			fmt.Fprintf(w, "%s\t%s, %s\n", l.name, l.Version, l.Path)
		} else {
			fmt.Fprintf(w, "%s\tnone that can be used\n", l.name)
		}
	}
	if len(r.GPUs) == 0 {
		fmt.Fprintln(w, "GPU\tnone that can be used")
	}
	for _, g := range r.GPUs {
		memory := gib(g.Memory) + " of memory"
		if g.Free >= 0 {
			memory += ", " + gib(g.Free) + " free"
		}
		fmt.Fprintf(w, "GPU %d\t%s, compute capability %s, %d SMs, %s, %d MiB of L2\n\tPCI %s, %s\n", g.Ordinal, g.Name, g.Capability, g.SMs, memory, g.L2>>20, g.PCI, g.UUID)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, o := range r.Obstacles {
		if _, err := fmt.Fprintf(out, "\n%s\n", o); err != nil {
			return err
		}
	}
	conclusion := "latent computes on the CPU here"
	if r.Usable {
		conclusion = "latent can compute on a GPU here"
	}
	_, err := fmt.Fprintf(out, "\n%s\n", conclusion)
	return err
}

func gib(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }
