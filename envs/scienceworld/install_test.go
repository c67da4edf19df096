package scienceworld

import (
	"archive/zip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/envs"
)

// fails checks that an error has all parts of wants.
func fails(t *testing.T, err error, wants ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", wants)
		return
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

// fakeJar writes a jar with a version in its manifest, and a table of type ids.
func fakeJar(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "scienceworld.jar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z := zip.NewWriter(file)
	w, err := z.Create("META-INF/MANIFEST.MF")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("Manifest-Version: 1.0\r\nSpecification-Version: " + version + "\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, typeIDsName), "a\t1\n", 0o644)
	return path
}

func writeFile(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestJarIsRefused(t *testing.T) {
	const hint = "hint: run `scripts/setup scienceworld`"
	_, err := findJar(t.Context(), filepath.Join(t.TempDir(), "none.jar"), "")
	fails(t, err, "no such file", hint)

	_, err = openJar(writeFile(t, filepath.Join(t.TempDir(), "x.jar"), "text", 0o644), "")
	fails(t, err, "not a jar", hint)

	damaged := fakeJar(t, "1.2.3")
	_, err = openJar(damaged, "")
	fails(t, err, "has the version 1.2.3", "env.scienceworld.jar_sha256", hint)

	_, err = openJar(damaged, strings.Repeat("0", 64))
	fails(t, err, "but env.scienceworld.jar_sha256 is", hint)

	alone := fakeJar(t, "9.9")
	if err := os.Remove(filepath.Join(filepath.Dir(alone), typeIDsName)); err != nil {
		t.Fatal(err)
	}
	_, err = openJar(alone, "")
	fails(t, err, "table of type ids", hint)
}

func TestYourOwnJarIsAccepted(t *testing.T) {
	path := fakeJar(t, "9.9")
	j, err := openJar(path, "")
	if err != nil || j.version != "9.9" || len(j.sha256) != 64 {
		t.Fatalf("%+v, %v", j, err)
	}
	pinned := fakeJar(t, "1.2.3")
	sum, err := checksum(pinned)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openJar(pinned, strings.ToUpper(sum)); err != nil {
		t.Errorf("pinned: %v", err)
	}
}

func TestInstalledJarIsFound(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("EMPO2_CACHE", cache)
	t.Setenv("PATH", t.TempDir()) // no Python
	_, err := findJar(t.Context(), "", "")
	fails(t, err, "no scienceworld.jar in "+cache, "scripts/setup scienceworld")

	if err := os.Rename(filepath.Dir(fakeJar(t, "9.9")), filepath.Join(cache, "scienceworld")); err != nil {
		t.Fatal(err)
	}
	if j, err := findJar(t.Context(), "", ""); err != nil || j.version != "9.9" {
		t.Errorf("%+v, %v", j, err)
	}
}

func TestJavaVersions(t *testing.T) {
	f := func(out, want string) {
		t.Helper()
		j, err := checkJava("java", out, true)
		if err != nil || j.version != want {
			t.Errorf("%q: %+v, %v", out, j, err)
		}
	}
	f("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK 64-Bit Server VM", "17.0.15")
	f("java version \"1.8.0_402\"\nJava HotSpot(TM)", "1.8.0_402")
	f("Picked up something\nopenjdk version \"21\" 2023-09-19", "21")
	f("openjdk version \"24-ea\" 2025-03-18", "24-ea")

	_, err := checkJava("java", `java version "1.7.0_80"`, true)
	fails(t, err, "1.7.0_80", "needs 8 or newer", "env.scienceworld.java")
	_, err = checkJava("java", "command not understood", true)
	fails(t, err, "env.scienceworld.java")
	_, err = checkJava("java", "openjdk version \"11.0.1\"\nEclipse OpenJ9 VM", true)
	fails(t, err, "HotSpot", "env.scienceworld.deterministic")
}

func TestJavaIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("JAVA_HOME", "")
	_, err := findJava(t.Context(), "", true)
	fails(t, err, "no java found", "hint: install a Java runtime")
	_, err = findJava(t.Context(), "/no/such/java", true)
	fails(t, err, "/no/such/java", "env.scienceworld.java")
}

func TestConfigIsRefused(t *testing.T) {
	f := func(c Config, wants ...string) {
		t.Helper()
		_, err := c.withDefaults()
		fails(t, err, wants...)
	}
	f(Config{Reads: "some"}, `env.scienceworld.reads = "some"`, "full")
	f(Config{Isolation: "none"}, "env.scienceworld.isolation", "loader")
	f(Config{Actions: "best"}, "env.scienceworld.actions", "closest-recipe")
	f(Config{Simplifications: "easy, openDoors"}, "without spaces")
	f(Config{Simplifications: "easy,openContainers"}, "knows easy only alone")
	if err := checkSimplifications("openDoors,"); err != nil {
		t.Errorf("a comma at the end: %v", err)
	}
	f(Config{StepLimit: -5}, "env.scienceworld.step_limit = -5")
	f(Config{Concurrency: -1}, "env.scienceworld.concurrency")
	f(Config{HeapMB: 8}, "env.scienceworld.heap_mb")
	f(Config{Limit: map[envs.Split]int{"dev": 3}}, `unknown split "dev"`)
	f(Config{Limit: map[envs.Split]int{envs.Train: -3}}, "want 0 or more")
}

// An unknown task is found before the simulator is.
func TestUnknownTasksAreFoundFirst(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.jar")
	_, err := Open(t.Context(), Config{Tasks: []string{"1-1", "bake"}, Jar: missing})
	fails(t, err, `unknown task "bake"`, "one of boil, change-the-state-of-matter-of, chemistry-mix")
	_, err = Open(t.Context(), Config{Tasks: []string{"bake"}, Jar: missing, JarSHA256: "of another simulator"})
	fails(t, err, missing)
	if err := (Config{Tasks: []string{"1-1", "melt", "10-2"}}).Check(); err != nil {
		t.Error(err)
	}
	fails(t, Config{Tasks: []string{"1-1", "melt", "boil"}}.Check(), "the task boil is named twice")
}

func TestTasksAreRefused(t *testing.T) {
	sim := func() *simulator {
		h := &fakeHost{faults: newFaults(nil)}
		t.Cleanup(h.kill)
		s, err := h.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	_, err := readCatalogue(t.Context(), sim(), Config{Tasks: []string{"bake"}})
	fails(t, err, `unknown task "bake"`, "one of boil, power-component")
	_, err = readCatalogue(t.Context(), sim(), Config{Variations: []int{2, 8}})
	fails(t, err, "boil", "no variation 8", "0 to 7")
	_, err = readCatalogue(t.Context(), sim(), Config{Tasks: []string{"3-1"}, Simplifications: "noElectricalAction"})
	fails(t, err, "power-component", "remove noElectricalAction")
}

func TestTasksOfASplit(t *testing.T) {
	f := fakeFamily(t, Config{Tasks: []string{"1-1"}, Limit: map[envs.Split]int{envs.Train: 2}}, newFaults(nil))
	defer f.Close()
	count := func(split envs.Split, want ...string) {
		t.Helper()
		tasks, err := f.Tasks(split)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, task := range tasks {
			got = append(got, task.ID)
			if task.Scope != task.ID || !strings.Contains(task.Instruction, "go OBJ; look around") {
				t.Errorf("%+v", task)
			}
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %q, want %q", split, got, want)
		}
	}
	count(envs.Train, "boil/variation-0", "boil/variation-1")
	count(envs.Eval, "boil/variation-4", "boil/variation-5")
	count(envs.Test, "boil/variation-6", "boil/variation-7")
}
