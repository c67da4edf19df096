package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// A Sweep is a sweep file: settings × seeds over a base configuration.
type Sweep struct {
	Place   string   // the file, for messages
	Profile string   // empty: none
	Files   []string // base configurations; those of the file are relative to its folder
	Out     string   // folder of the runs and of the report
	Seeds   []int64  // values of run.seed
	Houses  []int64  // worlds of the vault; nil: the seeds are no houses
	Jobs    int      // runs at the same time
	Metric  string   // "success" or "score": what the figures show
	Sets    []string // "key=value", for all runs
	Arms    []SweepArm
	origins map[string]string // the place of each set in the file
}

// A SweepArm is one setting of a sweep: keys over those of all runs.
type SweepArm struct {
	Name  string // of folders: letters, digits, '-', '_' and '.'
	Title string // in tables and figures
	Sets  []string
}

// sweepFile is the form of a sweep file.
type sweepFile struct {
	Profile string   `toml:"profile"`
	Base    []string `toml:"base"`
	Out     string   `toml:"out"`
	Seeds   []int64  `toml:"seeds"`
	Houses  []int64  `toml:"houses"`
	Jobs    *int     `toml:"jobs"`
	Metric  string   `toml:"metric"`
	// These have keys of config.toml. Those of grid have a list of values.
	Set  map[string]any `toml:"set"`
	Grid map[string]any `toml:"grid"`
	Arms map[string]any `toml:"arms"`
}

// maxSweepRuns bounds the runs of a sweep: more are a mistake in the grid.
const maxSweepRuns = 10_000

// ReadSweep reads a sweep file.
func ReadSweep(path string) (Sweep, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return Sweep{}, &Error{path, "no such file", "empo2 sweep --help has an example"}
	}
	text, err := ReadText(path, path)
	if err != nil {
		return Sweep{}, err
	}
	return parseSweep(text, path)
}

// parseSweep reads the text of a sweep file. Errors call the file path.
func parseSweep(text, path string) (Sweep, error) {
	s := Sweep{Place: path, origins: map[string]string{}}
	var f sweepFile
	meta, err := toml.Decode(text, &f)
	if err != nil {
		return s, decodeError(err, path)
	}
	unknown := slices.DeleteFunc(meta.Undecoded(), func(k toml.Key) bool { // tables in a map count as undecoded
		return len(k) > 1 && slices.Contains([]string{"set", "grid", "arms"}, k[0])
	})
	if len(unknown) > 0 {
		return s, &Error{path + lineOf(text, unknown[0]), fmt.Sprintf("unknown key %q", unknown[0].String()),
			"a sweep file has profile, base, out, seeds, houses, jobs, metric, [set], [grid] and [arms.NAME]"}
	}
	s.Profile, s.Out, s.Seeds, s.Houses, s.Metric = f.Profile, f.Out, f.Seeds, f.Houses, f.Metric
	if s.Out == "" {
		s.Out = filepath.Join("runs", strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	}
	for _, base := range f.Base {
		if !filepath.IsAbs(base) {
			base = filepath.Join(filepath.Dir(path), base)
		}
		s.Files = append(s.Files, base)
	}
	if s.Jobs = 1; f.Jobs != nil {
		s.Jobs = *f.Jobs
	}
	if s.Metric == "" {
		s.Metric = "success"
	}
	r := sweepReader{sweep: &s, text: text, keys: meta.Keys()}
	if err := r.checkTop(); err != nil {
		return s, err
	}
	return s, r.readArms(f)
}

// Explain names the place of a set in the sweep file in an error about it.
func (s Sweep) Explain(err error) error {
	var fault *Error
	if !errors.As(err, &fault) {
		return err
	}
	for set, place := range s.origins {
		if rest, ok := strings.CutPrefix(fault.Place, "--set "+set); ok && (rest == "" || rest[0] == ':') {
			named := *fault
			named.Place = place
			return &named
		}
	}
	return err
}

// A sweepReader reads the keys of config.toml in a sweep file.
type sweepReader struct {
	sweep *Sweep
	text  string
	keys  []toml.Key // in the order of the file
}

// fault is an error about a key of the file.
func (r sweepReader) fault(table, key, msg, hint string) error {
	return &Error{r.place(table, key), msg, hint}
}

// place is the file with the line of a key, for example "sweep.toml:7: loss.kl".
func (r sweepReader) place(table, key string) string {
	current := ""
	for i, line := range strings.Split(r.text, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") && !strings.Contains(line, "=") {
			current = strings.ReplaceAll(strings.Trim(line, "[] "), `"`, "")
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		name = strings.Trim(strings.ReplaceAll(strings.TrimSpace(name), `"`, ""), "'")
		if full := strings.TrimPrefix(current+"."+name, "."); ok && full == strings.TrimPrefix(table+"."+key, ".") {
			return fmt.Sprintf("%s:%d: %s", r.sweep.Place, i+1, key)
		}
	}
	return r.sweep.Place + ": " + strings.TrimPrefix(table+"."+key, ".")
}

// checkTop checks the keys that are not those of config.toml.
func (r sweepReader) checkTop() error {
	s := r.sweep
	switch {
	case s.Seeds != nil && s.Houses != nil:
		return r.fault("", "houses", "seeds and houses exclude each other", "a house is also the seed")
	case len(s.Seeds)+len(s.Houses) == 0:
		return r.fault("", "seeds", "is missing or empty", "for example seeds = [1, 2, 3, 4, 5]; intervals need several")
	case s.Jobs < 1 || s.Jobs > 1000:
		return r.fault("", "jobs", fmt.Sprintf("%d is out of range", s.Jobs), "a number from 1 to 1000")
	case s.Metric != "success" && s.Metric != "score":
		return r.fault("", "metric", fmt.Sprintf("unknown value %q", s.Metric), "success or score")
	}
	for name, list := range map[string][]int64{"seeds": s.Seeds, "houses": s.Houses} {
		for i, n := range list {
			if n < 0 || slices.Contains(list[:i], n) {
				return r.fault("", name, fmt.Sprintf("%d is negative or listed twice", n), "different numbers, 0 or more")
			}
		}
	}
	return nil
}

// sweepOwned are the keys that a sweep sets itself.
var sweepOwned = map[string]string{
	"run.name": "it is made of the setting and the seed", "run.dir": "out names the folder", "run.seed": "use seeds",
	"profile": "write profile at the top of the file",
}
