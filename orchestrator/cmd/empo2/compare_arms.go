package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
)

// arm is one setting that is compared.
type arm struct {
	name string
	// title is its name in reports; empty: name.
	title string
	// sets are the keys that differ from the configuration.
	sets []string
	// files are layers over those of -c.
	files []string
	// after names an arm. The training seconds of that arm are the budget of
	// this one. Empty: the budget is a number of steps.
	after string
}

// shown is the arm's name in reports.
func (a arm) shown() string { return cmp.Or(a.title, a.name) }

// builtInArms are those that --arms names.
var builtInArms = []arm{
	{name: "empo2", sets: []string{"algorithm.name=empo2"}},
	{name: "grpo", sets: []string{"algorithm.name=grpo"}},
	{name: "grpo-time", sets: []string{"algorithm.name=grpo"}, after: "empo2"},
	{name: "paper", sets: []string{"algorithm.name=empo2", "algorithm.mode_draw=step", "algorithm.baseline=group",
		"algorithm.memory_probability=0.25"}},
	{name: "no-off-policy", sets: []string{"algorithm.name=empo2", "algorithm.off_policy_probability=0.0"}},
	{name: "no-bonus", sets: []string{"algorithm.name=empo2", "novelty.weight=0.0"}},
}

// armName matches the names of arms and bases, which begin the names of folders.
var armName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,59}$`)

// ownedKeys are the keys that compare sets itself.
var ownedKeys = map[string]string{
	"run.name": "it is made of the arm and the seed", "run.dir": "--out names the folder", "run.seed": "use --seeds",
}

// chosen returns the arms of the command line: each arm over each base.
func (cmd *compareCmd) chosen() ([]arm, error) {
	bases, err := cmd.bases()
	if err != nil {
		return nil, err
	}
	arms, err := cmd.ownArms()
	if err != nil {
		return nil, err
	}
	names := cmd.Arms
	if names == nil && len(arms) == 0 && len(bases) == 0 {
		names = []string{"grpo", "empo2"}
	}
	builtIn, err := namedArms(names)
	if err != nil {
		return nil, err
	}
	arms = slices.Concat(builtIn, arms)
	if err := different("--arms", arms); err != nil || len(bases) == 0 {
		return arms, err
	}
	return times(bases, arms), nil
}

// times returns each arm over each base. Without an arm these are the bases.
func times(bases, arms []arm) []arm {
	if len(arms) == 0 {
		return bases
	}
	var out []arm
	for _, base := range bases {
		for _, a := range arms {
			over := arm{name: base.name + "-" + a.name, files: base.files, sets: a.sets}
			if a.after != "" {
				over.after = base.name + "-" + a.after
			}
			out = append(out, over)
		}
	}
	return out
}

// bases returns what --base names, as arms without keys.
func (cmd *compareCmd) bases() ([]arm, error) {
	var out []arm
	for _, text := range cmd.Base {
		name, file, ok := strings.Cut(text, "=")
		if !ok || file == "" || !armName.MatchString(name) {
			return nil, fmt.Errorf("%w: --base %s\n  hint: NAME=FILE, for example --base easy=easy.toml; "+
				"a name has letters, digits, '-', '_' and '.'", errUsage, text)
		}
		out = append(out, arm{name: name, files: []string{file}})
	}
	return out, different("--base", out)
}

// ownArms returns what --arm names.
func (cmd *compareCmd) ownArms() ([]arm, error) {
	var out []arm
	for _, text := range cmd.Arm {
		name, keys, _ := strings.Cut(text, "=")
		if !armName.MatchString(name) {
			return nil, fmt.Errorf("%w: --arm %s\n  hint: NAME=KEY=VALUE,…, for example "+
				"--arm slow=optimizer.learning_rate=1e-5; a name has letters, digits, '-', '_' and '.'", errUsage, text)
		}
		a := arm{name: name}
		for _, set := range splitSets(keys) {
			if err := a.add(set); err != nil {
				return nil, err
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// add adds a key to an arm of --arm.
func (a *arm) add(set string) error {
	key, _, err := config.ParseSet(set)
	if err != nil {
		return a.explain(set, err)
	}
	if why, ok := ownedKeys[key]; ok {
		return fmt.Errorf("%w: --arm %s: compare sets %s itself\n  hint: leave it out; %s", errUsage, a.name, key, why)
	}
	a.sets = append(a.sets, set)
	return nil
}

// explain names --arm in an error about one of its keys.
func (a *arm) explain(set string, err error) error {
	var fault *config.Error
	if !errors.As(err, &fault) {
		return err
	}
	named := *fault
	if rest, ok := strings.CutPrefix(fault.Place, "--set "); ok {
		named.Place = "--arm " + a.name + ": " + rest
	}
	if !strings.Contains(set, "=") {
		named.Hint = fmt.Sprintf(`for example --arm %s=run.steps=20,memory.k=5; a value with a comma needs quotes: "a,b"`,
			a.name)
	}
	return &named
}

// splitSets splits the keys of --arm, or the parts of a side of empo2 ab, at commas,
// except those within quotes or brackets.
func splitSets(text string) []string {
	var out []string
	var quote rune // that is open
	start, depth := 0, 0
	escaped := false
	for i, r := range text {
		switch {
		case quote != 0:
			if r == quote && !escaped {
				quote = 0
			}
			escaped = quote == '"' && r == '\\' && !escaped
		case r == '"' || r == '\'':
			quote = r
		case r == '[' || r == '{':
			depth++
		case r == ']' || r == '}':
			depth--
		case r == ',' && depth <= 0:
			out = append(out, text[start:i])
			start = i + 1
		}
	}
	if rest := text[start:]; strings.TrimSpace(rest) != "" || len(out) > 0 {
		out = append(out, rest)
	}
	return out
}

// namedArms returns the built-in arms of these names.
func namedArms(names []string) ([]arm, error) {
	var known []string
	for _, a := range builtInArms {
		known = append(known, a.name)
	}
	var out []arm
	for _, name := range names {
		i := slices.Index(known, name)
		if i < 0 {
			return nil, fmt.Errorf("%w: --arms: unknown arm %q\n  hint: one of %s; --arm %s=KEY=VALUE defines one",
				errUsage, name, strings.Join(known, ", "), name)
		}
		if after := builtInArms[i].after; after != "" && !slices.Contains(names, after) {
			return nil, fmt.Errorf("%w: arm %s takes its budget from %s\n  hint: add %s to --arms",
				errUsage, name, after, after)
		}
		out = append(out, builtInArms[i])
	}
	return out, nil
}

// different returns an error if two arms have one name.
func different(flag string, arms []arm) error {
	for i, a := range arms {
		if slices.ContainsFunc(arms[:i], func(b arm) bool { return strings.EqualFold(a.name, b.name) }) {
			return fmt.Errorf("%w: %s has %s twice\n  hint: different names", errUsage, flag, a.name)
		}
	}
	return nil
}

// job is one arm with one seed. With a house, it is trained in this house of the vault.
type job struct {
	arm   arm
	seed  int64
	house bool
}

func (j job) label() string { return fmt.Sprintf("%s %d", j.kind(), j.seed) }
func (j job) name() string  { return fmt.Sprintf("%s-%s%d", j.arm.name, j.kind(), j.seed) }

func (j job) kind() string {
	if j.house {
		return "house"
	}
	return "seed"
}

// config returns the job's configuration. seconds is its budget of time; 0: its
// budget is a number of steps. noEffect is called for each key without effect.
func (cmd *compareCmd) config(j job, seconds float64, noEffect func(config.Idle)) (config.Config, error) {
	c, err := cmd.layered(j.arm, noEffect)
	if err != nil {
		return c, err
	}
	sets := []string{"run.name=" + j.name(), fmt.Sprintf("run.dir=%q", cmd.Out), fmt.Sprintf("run.seed=%d", j.seed)}
	if j.house {
		sets = append(sets, fmt.Sprintf("env.vault.houses=[%d]", j.seed))
	}
	if seconds > 0 {
		sets = append(sets, fmt.Sprintf("run.steps=%d", unlimited), fmt.Sprintf("run.max_seconds=%g", seconds))
	}
	return config.With(c, sets)
}

// layered returns the configuration of an arm before compare names its run.
func (cmd *compareCmd) layered(a arm, noEffect func(config.Idle)) (config.Config, error) {
	source := cmd.source(a.files...)
	source.Sets, source.NoEffect = slices.Concat(cmd.Set, a.sets), noEffect
	c, err := source.Load()
	if err != nil && cmd.explain != nil {
		return c, cmd.explain(err)
	}
	var fault *config.Error
	if errors.As(err, &fault) {
		for _, set := range a.sets {
			if strings.HasPrefix(fault.Place, "--set "+set) {
				return c, a.explain(set, err)
			}
		}
	}
	if err != nil {
		return c, err
	}
	return withWarmBase(c)
}

// unnoted ignores the keys without effect.
func unnoted(config.Idle) {}

// settings returns each arm's configuration for the first seed, and notes about keys
// that have no effect in some arms. A key of a file or of --set that has no effect in
// any arm is an error.
func (cmd *compareCmd) settings(arms []arm) (all []config.Config, notes []string, err error) {
	idle := map[string][]config.Idle{}
	for _, a := range arms {
		c, err := cmd.config(job{a, cmd.seeds[0], cmd.houses}, 0, func(i config.Idle) {
			idle[i.Key] = append(idle[i.Key], i)
			notes = append(notes, fmt.Sprintf("arm %s: %s has no effect: %s", a.name, i.Key, i.Why))
		})
		if err != nil {
			return nil, nil, err
		}
		all = append(all, c)
	}
	for _, key := range slices.Sorted(maps.Keys(idle)) {
		if len(idle[key]) == len(arms) && !slices.ContainsFunc(arms, func(a arm) bool { return a.hasKey(key) }) {
			return nil, nil, idle[key][0].Err()
		}
	}
	return all, notes, nil
}

func (a arm) hasKey(key string) bool {
	return slices.ContainsFunc(a.sets, func(set string) bool {
		name, _, _ := strings.Cut(set, "=")
		return strings.TrimSpace(name) == key
	})
}
