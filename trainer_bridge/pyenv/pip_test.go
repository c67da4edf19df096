package pyenv

import (
	"archive/zip"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// wheel writes a Python package that defines one number.
func wheel(t *testing.T, dir, version string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	info := "empo2_demo-" + version + ".dist-info/"
	files := [][2]string{
		{"empo2_demo.py", "number = 42\n"},
		{info + "METADATA", "Metadata-Version: 2.1\nName: empo2-demo\nVersion: " + version + "\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", "empo2_demo.py,,\n" + info + "METADATA,,\n" + info + "WHEEL,,\n" + info + "RECORD,,\n"},
	}
	for _, f := range files {
		w, err := z.Create(f[0])
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(f[1]))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "empo2_demo-"+version+"-py3-none-any.whl")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// A real environment is created from a wheel on disk. The user's pip settings
// name its folder.
func TestRealPythonAndPip(t *testing.T) {
	t.Setenv("EMPO2_PYTHON", "")
	if r := Find(t.Context(), Options{CacheDir: t.TempDir()}); r.Dir == "" {
		t.Skip("NOT TESTED: venv and pip; there is no Python 3.10 with venv on PATH")
	}
	wheels := t.TempDir()
	wheel(t, wheels, "1.5")
	t.Setenv("PIP_NO_INDEX", "1")
	t.Setenv("PIP_FIND_LINKS", wheels)
	t.Setenv("PIP_USER", "1")
	t.Setenv("PYTHONPATH", "/nowhere")
	opts := Options{
		CacheDir: t.TempDir(),
		Requirements: []string{"empo2-demo==1.5; python_version >= '3.10'",
			"empo2-demo==0.1; python_version < '3.10'"},
	}
	env, err := Ensure(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(env.Python, "-c", "import empo2_demo; print(empo2_demo.number)").CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "42" {
		t.Errorf("the package says %s (%v)", got, err)
	}
	os.RemoveAll(wheels) // pip finds nothing from here on
	again, err := Ensure(t.Context(), opts)
	if err != nil || again.Created {
		t.Errorf("again: %+v, %v", again, err)
	}
	removed, err := filepath.Glob(filepath.Join(env.Dir, "lib", "*", "site-packages", "empo2_demo*"))
	if err != nil || len(removed) == 0 {
		t.Fatalf("installed: %v, %v", removed, err)
	}
	for _, path := range removed {
		os.RemoveAll(path)
	}
	if r := Find(t.Context(), opts); r.Problem == nil ||
		!strings.Contains(r.Problem.Error(), "it lacks empo2-demo==1.5") {
		t.Errorf("a lost package: %v", r.Problem)
	}
}

func TestParsePip(t *testing.T) {
	f := func(line, want string, news bool) {
		t.Helper()
		e, got := parsePip(line)
		if e.String() != want || got != news {
			t.Errorf("%q: %q, %v; want %q, %v", line, e.String(), got, want, news)
		}
	}
	f("Collecting torch==2.15.0 (from -r x (line 1))", "resolving torch==2.15.0", false)
	f("  Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl (906.4 MB)",
		"downloading torch-2.15.0 (906.4 MB)", true)
	f("Downloading https://example.org/a/numpy-2.4.6-cp311.whl.metadata (62 kB)",
		"downloading numpy-2.4.6 (62 kB)", false)
	f("Downloading nvidia_cublas_cu12-12.9-py3-none-manylinux.whl (1.1 GB)",
		"downloading nvidia_cublas_cu12-12.9 (1.1 GB)", true)
	f("Processing ./wheels/empo2_demo-1.5-py3-none-any.whl", "resolving empo2_demo-1.5-py3-none-any.whl", false)
	f("Installing collected packages: a, b, c", "installing 3 packages", true)
	f("  Building wheel for x (pyproject.toml)", "building wheel for x (pyproject.toml)", false)
	f("Looking in links: /tmp", "", false)
	f("", "", false)
}

func TestEstimate(t *testing.T) {
	f := func(names []string, goos, index, want string, need uint64) {
		t.Helper()
		text, got := estimate(names, goos, func(name string) string {
			if name == "PIP_EXTRA_INDEX_URL" {
				return index
			}
			return ""
		})
		if !strings.Contains(text, want) || (want == "") != (text == "") || got != need*gigabyte {
			t.Errorf("%v on %s with %q: %q, %d", names, goos, index, text, got)
		}
	}
	f([]string{"numpy"}, "linux", "", "", 0)
	f([]string{"numpy", "torch"}, "linux", "", "CUDA", 10)
	f([]string{"torch"}, "linux", "https://example.org/whl/cpu", "few hundred MB", 2)
	f([]string{"torch"}, "darwin", "", "few hundred MB", 2)
}
