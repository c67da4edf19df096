package pyenv

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// state lists how an environment differs from the requirements.
type state struct {
	Missing   []string     // requirements without a package
	Different []difference // packages of another version
	Broken    []string     // modules that cannot be imported, with the reason
}

type difference struct{ Have, Want string }

// problem returns the state as an error; nil if it meets the requirements.
func (s state) problem() error {
	switch {
	case len(s.Missing) > 0:
		return fmt.Errorf("it lacks %s", strings.Join(s.Missing, ", "))
	case len(s.Different) > 0:
		return fmt.Errorf("it has %s instead of %s", s.Different[0].Have, s.Different[0].Want)
	case len(s.Broken) > 0:
		return fmt.Errorf("it cannot import %s", strings.Join(s.Broken, "; "))
	}
	return nil
}

// inspectScript compares installed packages with requirements. If no module can
// parse requirements, it compares only their names.
const inspectScript = `
import importlib, importlib.metadata as metadata, importlib.util, json, re, sys
try:
    from packaging.requirements import Requirement
except ImportError:
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ImportError:
        Requirement = None
out = {"missing": [], "different": [], "broken": []}
for text in json.loads(sys.argv[1]):
    requirement = Requirement(text) if Requirement else None
    if requirement and requirement.marker and not requirement.marker.evaluate():
        continue
    name = requirement.name if requirement else re.match(r"[\w.-]+", text).group()
    try:
        have = metadata.version(name)
    except metadata.PackageNotFoundError:
        out["missing"].append(text.split(";")[0].strip())
        continue
    if requirement and not requirement.specifier.contains(have, prereleases=True):
        out["different"].append({"have": name + " " + have, "want": str(requirement.specifier)})
    module = re.sub(r"[-.]", "_", name)
    if sys.argv[2] == "import" and importlib.util.find_spec(module):
        try:
            importlib.import_module(module)
        except Exception as e:
            out["broken"].append("%s (%s: %s)" % (module, type(e).__name__, e))
print(json.dumps(out))
`

// inspect examines the installed packages. With imports it also imports those
// whose module has the package's name, which takes seconds.
func inspect(ctx context.Context, python string, requirements []string, imports bool) (state, error) {
	list, err := json.Marshal(append([]string{}, requirements...))
	if err != nil {
		return state{}, err
	}
	mode, timeout := "list", time.Minute
	if imports {
		mode, timeout = "import", 10*time.Minute
	}
	out, err := ask(ctx, timeout, python, inspectScript, string(list), mode)
	if err != nil {
		return state{}, err
	}
	var s state
	if err := json.Unmarshal([]byte(lastLine(out)), &s); err != nil {
		return state{}, fmt.Errorf("it answered %q", firstLine(out))
	}
	return s, nil
}

// quoted joins requirements for a shell.
func quoted(requirements []string) string {
	return "'" + strings.Join(requirements, "' '") + "'"
}
