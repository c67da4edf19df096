package scienceworld

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/rs/zerolog"
)

// Name is the environment's name as it stands in config.toml.
const Name = "scienceworld"

// Reads says what is asked of the simulator after each action.
type Reads string

const (
	// ReadFull makes the reads of the Python package, in its order. Scores
	// are comparable with those of the Python package.
	ReadFull Reads = "full"
	// ReadLazy leaves out the task text and the list of valid actions, which
	// is most of a step's time. The random stream is another one.
	ReadLazy Reads = "lazy"
)

// Isolation says what keeps simulators from sharing state.
type Isolation string

const (
	// IsolateLoader gives each simulator a class loader in a shared JVM.
	IsolateLoader Isolation = "loader"
	// IsolateJVM gives each simulator a JVM.
	IsolateJVM Isolation = "jvm"
)

// Actions says what becomes of the policy's text before it is an action.
type Actions string

const (
	// ActRaw passes the text on as it is.
	ActRaw Actions = "raw"
	// ActClosestRecipe does what the paper's recipe does, its oversight
	// included: the text is lower-cased and then always replaced by the valid
	// action with the most similar set of words (Jaccard), the first of equals
	// in the simulator's unsorted order, even where the text is itself valid.
	ActClosestRecipe Actions = "closest-recipe"
	// ActClosest passes the text on, and only if the simulator does not know
	// it, takes the valid action whose words match best in their order. The
	// observation then names the action that was taken.
	ActClosest Actions = "closest"
)

// Deadlines bound the calls that leave the process. A simulator that misses
// one is killed with its JVM. A zero value means the default.
type Deadlines struct {
	Start time.Duration // JVM start and construction of a simulator; default 60 s
	Load  time.Duration // loading a task; default 120 s
	Step  time.Duration // one action with its reads; default 60 s
}

// Config describes a family. The zero value of a field is its default.
type Config struct {
	Jar       string // path of scienceworld.jar; default: as scripts/setup or pip installed it
	JarSHA256 string // accept only this checksum; default: a published one
	Java      string // launcher; default: JAVA_HOME, then PATH

	// Tasks are names ("boil"), numbers of the paper ("1-1"), or any spelling
	// that the Python package accepts. Default: all 30.
	Tasks []string
	// Variations keeps these variations only, in every split. Default: all.
	Variations []int
	// Limit keeps the first n variations of each task in a split. The recipe
	// for a single task trains on the first 5 and tests on the first 20.
	Limit map[envs.Split]int
	// Simplifications is "easy", "" or names joined by commas.
	Simplifications string

	// StepLimit ends an episode when the simulated clock has passed it, as
	// envStepLimit of the Python package; default 100.
	StepLimit int
	// MaxActions ends an episode after so many actions, since unparsable input
	// does not move the simulated clock. Default: StepLimit. −1: no limit.
	MaxActions int

	Reads     Reads     // default ReadFull
	Isolation Isolation // default IsolateLoader
	Actions   Actions   // default ActRaw

	Instances int // simulators at most, episodes open at once; default 8
	PerJVM    int // simulators of one JVM under IsolateLoader; default 8
	HeapMB    int // heap of one JVM in MiB; default 128 per simulator, 256 at least

	// Nondeterministic leaves identity hashes random: about a fifth faster,
	// and no score can be repeated.
	Nondeterministic bool

	Deadlines Deadlines
	Log       zerolog.Logger
}

// withDefaults fills what is zero and refuses what is wrong by itself.
func (c Config) withDefaults() (Config, error) {
	orElse(&c.Reads, ReadFull)
	orElse(&c.Isolation, IsolateLoader)
	orElse(&c.Actions, ActRaw)
	orElse(&c.StepLimit, 100)
	orElse(&c.MaxActions, c.StepLimit)
	orElse(&c.Instances, 8)
	orElse(&c.PerJVM, 8)
	if c.Isolation == IsolateJVM {
		c.PerJVM = 1
	}
	c.PerJVM = min(c.PerJVM, c.Instances)
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

func (c Config) check() error {
	return errors.Join(
		oneOf("reads", c.Reads, ReadFull, ReadLazy),
		oneOf("isolation", c.Isolation, IsolateLoader, IsolateJVM),
		oneOf("actions", c.Actions, ActRaw, ActClosestRecipe, ActClosest),
		atLeast("step_limit", c.StepLimit, 1),
		atLeast("max_actions", c.MaxActions, -1),
		atLeast("instances", c.Instances, 1),
		atLeast("per_jvm", c.PerJVM, 1),
		atLeast("heap_mb", c.HeapMB, 64),
		c.checkLimits(),
		checkSimplifications(c.Simplifications),
	)
}

func oneOf[T ~string](key string, got T, allowed ...T) error {
	if slices.Contains(allowed, got) {
		return nil
	}
	return fmt.Errorf("env.scienceworld.%s = %q is unknown (hint: one of %q)", key, got, allowed)
}

func atLeast(key string, got, least int) error {
	if got >= least {
		return nil
	}
	return fmt.Errorf("env.scienceworld.%s = %d is below %d", key, got, least)
}

func (c Config) checkLimits() error {
	for split, n := range c.Limit {
		if _, err := splitMethod(split); err != nil {
			return err
		}
		if n < 0 {
			return fmt.Errorf("env.scienceworld.limit of split %q = %d is negative", split, n)
		}
	}
	return nil
}

// simplifications are the names that the simulator knows.
var simplifications = []string{"easy", "noElectricalAction", "openContainers", "openDoors", "selfWateringFlowerPots", "teleportAction"}

func checkSimplifications(joined string) error {
	if joined == "" {
		return nil
	}
	for _, name := range strings.Split(joined, ",") {
		if !slices.Contains(simplifications, name) {
			return fmt.Errorf("env.scienceworld.simplifications: unknown %q (hint: of %q, joined by commas without spaces)", name, simplifications)
		}
	}
	return nil
}
