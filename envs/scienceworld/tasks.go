package scienceworld

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/empo2/empo2/envs"
)

// A variant is one variation of a task.
type variant struct {
	task      string
	variation int
}

// String returns the id, such as "boil/variation-3".
func (v variant) String() string { return v.task + "/variation-" + strconv.Itoa(v.variation) }

func parseVariant(id string) (variant, error) {
	task, number, ok := strings.Cut(id, "/variation-")
	n, err := strconv.Atoi(number)
	v := variant{task, n}
	if !ok || err != nil || v.String() != id {
		return variant{}, fmt.Errorf("%q is not a task id like boil/variation-3", id)
	}
	return v, nil
}

// A catalogue has the configured tasks of the simulator.
type catalogue struct {
	variations map[string]int           // task → number of its variations
	templates  map[string][]string      // task → action templates such as "open OBJ"
	splits     map[envs.Split][]variant // after Config.Variations and Config.Limit
}

// splitMethod is the method that lists a split. The simulator calls the split eval dev.
func splitMethod(split envs.Split) (string, error) {
	switch split {
	case envs.Train:
		return "getVariationsTrain", nil
	case envs.Eval:
		return "getVariationsDev", nil
	case envs.Test:
		return "getVariationsTest", nil
	}
	return "", fmt.Errorf("unknown split %q\n  hint: train, eval or test", split)
}

// readCatalogue reads the tasks, variations and splits from the simulator.
func readCatalogue(ctx context.Context, sim *simulator, c Config) (*catalogue, error) {
	known, err := sim.strings(ctx, "getTaskNames")
	if err != nil {
		return nil, err
	}
	tasks, err := resolveTasks(c.Tasks, known)
	if err != nil {
		return nil, err
	}
	cat := &catalogue{
		variations: make(map[string]int), templates: make(map[string][]string),
		splits: make(map[envs.Split][]variant),
	}
	for _, task := range tasks {
		if err := checkElectrical(task, c.Simplifications); err != nil {
			return nil, err
		}
		if err := cat.readTask(ctx, sim, task, c); err != nil {
			return nil, fmt.Errorf("task %s: %w", task, err)
		}
	}
	return cat, nil
}

func (cat *catalogue) readTask(ctx context.Context, sim *simulator, task string, c Config) error {
	n, err := callAs[int](ctx, sim, "getTaskMaxVariations", task)
	if err != nil {
		return err
	}
	cat.variations[task] = n
	for _, v := range c.Variations {
		if v < 0 || v >= n {
			return wrong("env.scienceworld.variations: there is no variation %d\n  hint: 0 to %d", v, n-1)
		}
	}
	if err := sim.load(ctx, task, 0, c.Simplifications); err != nil {
		return err
	}
	if cat.templates[task], err = sim.strings(ctx, "getPossibleActions"); err != nil {
		return err
	}
	for _, split := range []envs.Split{envs.Train, envs.Eval, envs.Test} {
		if err := cat.readSplit(ctx, sim, task, split, c); err != nil {
			return err
		}
	}
	return nil
}

// readSplit reads the variations of the loaded task.
func (cat *catalogue) readSplit(ctx context.Context, sim *simulator, task string, split envs.Split, c Config) error {
	method, err := splitMethod(split)
	if err != nil {
		return err
	}
	variations, err := sim.ints(ctx, method)
	if err != nil {
		return err
	}
	if c.Variations != nil {
		variations = slices.DeleteFunc(variations, func(v int) bool { return !slices.Contains(c.Variations, v) })
	}
	if limit := c.Limit[split]; limit > 0 && len(variations) > limit {
		variations = variations[:limit]
	}
	for _, v := range variations {
		cat.splits[split] = append(cat.splits[split], variant{task, v})
	}
	return nil
}

// check refuses an unknown variant. The simulator would load it and answer with error
// texts.
func (cat *catalogue) check(v variant) error {
	n, ok := cat.variations[v.task]
	if !ok {
		return fmt.Errorf("task %q is not configured\n  hint: add it to env.scienceworld.tasks", v.task)
	}
	if v.variation < 0 || v.variation >= n {
		return fmt.Errorf("task %s has no variation %d\n  hint: 0 to %d", v.task, v.variation, n-1)
	}
	return nil
}

// instruction lists the commands of a task.
func (cat *catalogue) instruction(task string) string {
	return "You act in a simulated house and laboratory by writing one command per turn, nothing else. " +
		"OBJ stands for the name of a thing or place. Commands: " + strings.Join(cat.templates[task], "; ") + ".\n" +
		"Focus only on what the task tells you to focus on: focusing on anything else fails the task. " +
		"If you are asked to choose between numbered meanings, answer with the number."
}
