package scienceworld

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/process"
)

// Name is the name of the environment in config.toml.
const Name = "scienceworld"

// Reads says which values are read from the simulator after each action.
type Reads string

const (
	// ReadFull reads the same values as the Python package, in the same order.
	// Scores are comparable with those of the Python package.
	ReadFull Reads = "full"
	// ReadLazy does not read the task text and the list of valid actions, which
	// take most of a step's time. The random stream differs from ReadFull.
	ReadLazy Reads = "lazy"
)

// Isolation says how simulators are separated.
type Isolation string

const (
	// IsolateLoader gives each simulator a class loader in a shared JVM.
	IsolateLoader Isolation = "loader"
	// IsolateJVM gives each simulator a JVM.
	IsolateJVM Isolation = "jvm"
)

// Actions says how the policy's text becomes an action.
type Actions string

const (
	// ActRaw uses the text unchanged.
	ActRaw Actions = "raw"
	// ActClosestRecipe does the same as the paper's recipe: the text in lower
	// case is replaced by the valid action with the most similar set of words
	// (Jaccard). Of equal actions the first in the simulator's unsorted list is
	// used. A valid text is replaced too, which is an oversight of the recipe.
	ActClosestRecipe Actions = "closest-recipe"
	// ActClosest uses the text. If the simulator does not know it, it is
	// replaced by the valid action whose sequence of words is most similar, and
	// the observation tells which action this was.
	ActClosest Actions = "closest"
)

// Deadlines are the deadlines of calls to a JVM. A simulator that misses one is
// killed with its JVM. Zero means the default.
type Deadlines struct {
	Start time.Duration // JVM start and construction of a simulator; default 60 s
	Load  time.Duration // loading a task; default 120 s
	Step  time.Duration // one action with its reads; default 60 s
}

// Config describes a family. Zero means the default.
type Config struct {
	Jar       string // path of scienceworld.jar; default: where scripts/setup or pip has installed it
	JarSHA256 string // the required checksum; default: a published one
	Java      string // launcher; default: JAVA_HOME, then PATH
	// Inherit are environment variables of the JVM in addition to those of the system: NAME or NAME=VALUE.
	Inherit []string

	// Tasks are names ("boil"), numbers in the paper ("1-1"), or other spellings
	// that the Python package accepts. Default: all 30.
	Tasks []string
	// Variations selects variations, in every split. Default: all.
	Variations []int
	// Limit selects the first n variations of each task in a split. The paper's
	// recipe for one task trains on the first 5 and tests on the first 20.
	Limit map[envs.Split]int
	// Simplifications is "easy", or "", or names joined by commas.
	Simplifications string

	// StepLimit ends an episode when the simulated clock exceeds it, like
	// envStepLimit of the Python package. Default 100.
	StepLimit int
	// MaxActions is the largest number of actions in an episode. It is needed
	// because input that cannot be parsed does not advance the simulated clock.
	// Default: StepLimit. −1: no limit.
	MaxActions int

	Reads     Reads     // default ReadFull
	Isolation Isolation // default IsolateLoader
	Actions   Actions   // default ActRaw

	Concurrency int // largest number of simulators and of open episodes; default 8
	PerJVM      int // simulators in one JVM, with IsolateLoader; default 8
	HeapMB      int // heap of one JVM in MiB; default 128 per simulator, but 256 or more

	// Nondeterministic leaves the identity hashes random. This is about 20 %
	// faster, but scores cannot be repeated.
	Nondeterministic bool

	Deadlines Deadlines
	// Budget limits the restarts of a JVM. The JVMs together may be restarted 4 times
	// as often as their budgets allow: once for each try of an action that breaks all of
	// them. The zero value: none.
	Budget process.Budget
	Log    zerolog.Logger
}

// withDefaults replaces zero values and checks the configuration.
func (c Config) withDefaults() (Config, error) {
	orElse(&c.Reads, ReadFull)
	orElse(&c.Isolation, IsolateLoader)
	orElse(&c.Actions, ActRaw)
	orElse(&c.StepLimit, 100)
	orElse(&c.MaxActions, c.StepLimit)
	orElse(&c.Concurrency, 8)
	orElse(&c.PerJVM, 8)
	if c.Isolation == IsolateJVM {
		c.PerJVM = 1
	}
	c.PerJVM = min(c.PerJVM, c.Concurrency)
	orElse(&c.HeapMB, max(256, 128*c.PerJVM))
	orElse(&c.Deadlines.Start, time.Minute)
	orElse(&c.Deadlines.Load, 2*time.Minute)
	orElse(&c.Deadlines.Step, time.Minute)
	return c, c.check()
}

func orElse[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}

// Check finds mistakes without a simulator. The tasks of another simulator than the
// published ones are unknown.
func (c Config) Check() error {
	if _, err := c.withDefaults(); err != nil || c.JarSHA256 != "" {
		return err
	}
	known := make([]string, len(taskNames))
	for i, t := range taskNames {
		known[i] = t.name
	}
	slices.Sort(known)
	_, err := resolveTasks(c.Tasks, known)
	return err
}

func (c Config) check() error {
	return errors.Join(
		oneOf("reads", c.Reads, ReadFull, ReadLazy),
		oneOf("isolation", c.Isolation, IsolateLoader, IsolateJVM),
		oneOf("actions", c.Actions, ActRaw, ActClosestRecipe, ActClosest),
		atLeast("step_limit", c.StepLimit, 1),
		atLeast("max_actions", c.MaxActions, -1),
		atLeast("concurrency", c.Concurrency, 1),
		atLeast("per_jvm", c.PerJVM, 1),
		atLeast("heap_mb", c.HeapMB, 64),
		c.checkLimits(),
		checkSimplifications(c.Simplifications),
	)
}

// wrong makes the error for a wrong value of a key.
func wrong(format string, arguments ...any) error {
	return &envs.SettingError{Err: fmt.Errorf(format, arguments...)}
}

func oneOf[T ~string](key string, got T, allowed ...T) error {
	if slices.Contains(allowed, got) {
		return nil
	}
	return wrong("env.scienceworld.%s = %q is unknown\n  hint: one of %q", key, got, allowed)
}

func atLeast(key string, got, least int) error {
	if got >= least {
		return nil
	}
	return wrong("env.scienceworld.%s = %d, want %d or more", key, got, least)
}

func (c Config) checkLimits() error {
	for split, n := range c.Limit {
		if _, err := splitMethod(split); err != nil {
			return err
		}
		if n < 0 {
			return wrong("env.scienceworld: the limit of the split %q is %d, want 0 or more", split, n)
		}
	}
	return nil
}

// simplifications are the names that the simulator knows.
var simplifications = []string{
	"easy", "noElectricalAction", "openContainers", "openDoors", "selfWateringFlowerPots", "teleportAction",
}

func checkSimplifications(joined string) error {
	if joined == "" {
		return nil
	}
	names := strings.Split(strings.TrimRight(joined, ","), ",") // the simulator ignores commas at the end
	for _, name := range names {
		if !slices.Contains(simplifications, name) {
			return wrong("env.scienceworld.simplifications: unknown name %q"+
				"\n  hint: %s, joined by commas without spaces", name, strings.Join(simplifications, ", "))
		}
	}
	if len(names) > 1 && slices.Contains(names, "easy") {
		return wrong("env.scienceworld.simplifications: the simulator knows easy only alone" +
			"\n  hint: easy, or other names without easy")
	}
	return nil
}
