package scienceworld

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
)

// oldestJava is the oldest feature release that runs the simulator.
const oldestJava = 8

// A java is a Java launcher with its version.
type java struct {
	path    string
	version string // "17.0.15", "1.8.0_402"
	hotspot bool
}

// findJava returns the first of these: the configured launcher, that of JAVA_HOME, and
// java on the PATH. It must not be too old.
func findJava(ctx context.Context, configured string, deterministic bool) (java, error) {
	path, err := javaPath(configured)
	if err != nil {
		return java{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, fmt.Errorf("%s -version does not return", path))
	defer cancel()
	command := process.Command{Args: []string{path, "-version"}, Merge: true}
	out, err := process.Output(ctx, command)
	if err != nil {
		return java{}, fmt.Errorf("run %s -version: %w: %s"+
			"\n  hint: set env.scienceworld.java to a working launcher of Java %d or newer",
			path, err, shorten(string(out)), oldestJava)
	}
	return checkJava(path, string(out), deterministic)
}

func javaPath(configured string) (string, error) {
	if configured != "" {
		if _, err := exec.LookPath(configured); err != nil {
			return "", wrong("env.scienceworld.java: %s: %w\n  hint: name an executable, or remove the key", configured, err)
		}
		return configured, nil
	}
	if home := os.Getenv("JAVA_HOME"); home != "" {
		if path, err := exec.LookPath(filepath.Join(home, "bin", "java")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("java")
	if err != nil {
		return "", fmt.Errorf("no java found in JAVA_HOME or on the PATH: %w"+
			"\n  hint: install a Java runtime, for example `apt-get install default-jre-headless`, "+
			"or set env.scienceworld.java", err)
	}
	return path, nil
}

var javaVersion = regexp.MustCompile(`version "([0-9]+)(?:\.([0-9]+))?[^"]*"`)

// checkJava checks the output of `java -version`.
func checkJava(path, out string, deterministic bool) (java, error) {
	m := javaVersion.FindStringSubmatch(out)
	if m == nil {
		return java{}, fmt.Errorf("%s -version: no version in %s\n  hint: set env.scienceworld.java to a Java launcher",
			path, shorten(out))
	}
	feature, _ := strconv.Atoi(m[1]) // the expression allows digits only
	if feature == 1 && m[2] != "" {
		feature, _ = strconv.Atoi(m[2]) // "1.8.0_402" is Java 8
	}
	j := java{path: path, version: strings.Trim(strings.TrimPrefix(m[0], "version "), `"`)}
	j.hotspot = !strings.Contains(out, "OpenJ9") && !strings.Contains(out, "GraalVM Native")
	if feature < oldestJava {
		return java{}, fmt.Errorf("%s is Java %s, but the simulator needs %d or newer"+
			"\n  hint: install a newer runtime, or set env.scienceworld.java", path, j.version, oldestJava)
	}
	if deterministic && !j.hotspot {
		return java{}, fmt.Errorf("%s is not a HotSpot JVM and cannot fix identity hashes"+
			"\n  hint: use HotSpot, or set env.scienceworld.deterministic = false", path)
	}
	return j, nil
}

// jvmFlags are the flags of every JVM. A JVM does not inherit JAVA_TOOL_OPTIONS and the like, which would add flags
// that no score records. The hash flags make all identity hashes equal,
// so the simulator's hash sets keep the order of insertion. The locale determines how
// the simulator prints numbers.
func jvmFlags(deterministic bool, heapMB int) []string {
	flags := []string{
		"-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xmx" + strconv.Itoa(heapMB) + "m",
		"-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US",
	}
	if deterministic {
		flags = append(flags, "-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2")
	}
	return flags
}
