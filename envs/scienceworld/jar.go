package scienceworld

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
)

// knownJars are the published simulators, by the checksum of the jar.
var knownJars = map[string]string{
	"f4e1fdce0cdabe1bab7128a7e78ea820210d9db3c28d7272bcbbc3f3a1c5f0d7": "1.2.3",
}

// typeIDsName is the file with the numbers of the object types. The simulator reads
// it from its working directory, and rewrites it when it finds a new type.
const typeIDsName = "object_type_ids.tsv"

// setupHint ends every message about a missing or damaged jar.
const setupHint = "\n  hint: run `scripts/setup scienceworld`, or set env.scienceworld.jar to a scienceworld.jar " +
	"with " + typeIDsName + " in the same folder"

// A jar is a checked simulator.
type jar struct {
	path, typeIDs   string // absolute paths
	version, sha256 string
}

// findJar opens the first of these: the configured jar, the jar of scripts/setup, and
// the jar of the installed Python package. The checksum must be pinned or published.
func findJar(ctx context.Context, configured, pinned string) (jar, error) {
	if configured != "" {
		return openJar(configured, pinned)
	}
	tried := jarCandidates(ctx)
	for _, path := range tried {
		if _, err := os.Stat(path); err == nil {
			return openJar(path, pinned)
		}
	}
	return jar{}, fmt.Errorf("no scienceworld.jar in %s%s", strings.Join(tried, ", "), setupHint)
}

func jarCandidates(ctx context.Context) []string {
	var paths []string
	if dir := cacheDir(); dir != "" {
		paths = append(paths, filepath.Join(dir, "scienceworld", "scienceworld.jar"))
	}
	if dir := installedPackage(ctx); dir != "" {
		paths = append(paths, filepath.Join(dir, "scienceworld.jar"))
	}
	return paths
}

// cacheDir is the folder of the set-up scripts.
func cacheDir() string {
	if dir := os.Getenv("EMPO2_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "empo2")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".cache", "empo2")
	}
	return ""
}

// installedPackage returns the folder of the package scienceworld in the Python on
// the PATH, or "". It does not import the package.
func installedPackage(ctx context.Context) string {
	python, err := exec.LookPath("python3")
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("python3 does not return"))
	defer cancel()
	const script = `import importlib.util as u; s = u.find_spec("scienceworld"); ` +
		`print(s.submodule_search_locations[0] if s else "")`
	out, err := process.Output(ctx, process.Command{Args: []string{python, "-c", script}})
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// openJar checks a jar and the table of type ids in its folder.
func openJar(path, pinned string) (jar, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return jar{}, err
	}
	sum, err := checksum(path)
	if err != nil {
		return jar{}, fmt.Errorf("read jar: %w%s", err, setupHint)
	}
	version, err := manifestVersion(path)
	if err != nil {
		return jar{}, fmt.Errorf("jar %s: %w%s", path, err, setupHint)
	}
	if err := acceptJar(path, sum, version, pinned); err != nil {
		return jar{}, err
	}
	j := jar{path: path, typeIDs: filepath.Join(filepath.Dir(path), typeIDsName), version: version, sha256: sum}
	if _, err := os.Stat(j.typeIDs); err != nil {
		return jar{}, fmt.Errorf("the jar's table of type ids: %w%s", err, setupHint)
	}
	return j, nil
}

// acceptJar checks the checksum. A version that was not published, for example your
// own build, needs no pinned checksum. A published version with other bytes does.
func acceptJar(path, sum, version, pinned string) error {
	if pinned != "" {
		if !strings.EqualFold(pinned, sum) {
			return fmt.Errorf("jar %s has sha256 %s, but env.scienceworld.jar_sha256 is %s%s",
				path, sum, pinned, setupHint)
		}
		return nil
	}
	if _, known := knownJars[sum]; known {
		return nil
	}
	for want, published := range knownJars {
		if published == version {
			return fmt.Errorf("jar %s has the version %s but sha256 %s, want %s: it is damaged or another build; "+
				"to use it anyway, set env.scienceworld.jar_sha256 to its checksum%s", path, version, sum, want, setupHint)
		}
	}
	return nil
}

func checksum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// manifestVersion reads Specification-Version from the jar's manifest.
func manifestVersion(path string) (string, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return "", fmt.Errorf("not a jar: %w", err)
	}
	defer z.Close()
	f, err := z.Open("META-INF/MANIFEST.MF")
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "Specification-Version:"); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", errors.Join(errors.New("the manifest has no Specification-Version"), lines.Err())
}
