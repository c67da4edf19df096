package scienceworld

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// taskNames maps the number and the title of a task in the ScienceWorld paper to its
// name in the simulator.
var taskNames = []struct{ number, title, name string }{
	{"1-1", "Matter Changes of State (Boiling)", "boil"},
	{"1-2", "Matter Changes of State (Melting)", "melt"},
	{"1-3", "Matter Changes of State (Freezing)", "freeze"},
	{"1-4", "Matter Changes of State (Any)", "change-the-state-of-matter-of"},
	{"2-1", "Measurement Use Thermometer", "use-thermometer"},
	{"2-2", "Measurement Measuring Boiling Point (known)", "measure-melting-point-known-substance"},
	{"2-3", "Measurement Measuring Boiling Point (unknown)", "measure-melting-point-unknown-substance"},
	{"3-1", "Electricity Create a circuit", "power-component"},
	{"3-2", "Electricity Renewable vs Non-renewable Energy", "power-component-renewable-vs-nonrenewable-energy"},
	{"3-3", "Electricity Test Conductivity (known)", "test-conductivity"},
	{"3-4", "Electricity Test Conductivity (unknown)", "test-conductivity-of-unknown-substances"},
	{"4-1", "Classification Find a living thing", "find-living-thing"},
	{"4-2", "Classification Find a non-living thing", "find-non-living-thing"},
	{"4-3", "Classification Find a plant", "find-plant"},
	{"4-4", "Classification Find an animal", "find-animal"},
	{"5-1", "Biology Grow a plant", "grow-plant"},
	{"5-2", "Biology Grow a fruit", "grow-fruit"},
	{"6-1", "Chemistry Mixing (generic)", "chemistry-mix"},
	{"6-2", "Chemistry Mixing paints (secondary colours)", "chemistry-mix-paint-secondary-color"},
	{"6-3", "Chemistry Mixing paints (tertiary colours)", "chemistry-mix-paint-tertiary-color"},
	{"7-1", "Biology Identify longest-lived animal", "lifespan-longest-lived"},
	{"7-2", "Biology Identify shortest-lived animal", "lifespan-shortest-lived"},
	{"7-3", "Biology Identify longest-then-shortest-lived animal", "lifespan-longest-lived-then-shortest-lived"},
	{"8-1", "Biology Identify life stages (plant)", "identify-life-stages-1"},
	{"8-2", "Biology Identify life stages (animal)", "identify-life-stages-2"},
	{"9-1", "Forces Inclined Planes (determine angle)", "inclined-plane-determine-angle"},
	{"9-2", "Forces Friction (known surfaces)", "inclined-plane-friction-named-surfaces"},
	{"9-3", "Forces Friction (unknown surfaces)", "inclined-plane-friction-unnamed-surfaces"},
	{"10-1", "Biology Mendelian Genetics (known plants)", "mendelian-genetics-known-plant"},
	{"10-2", "Biology Mendelian Genetics (unknown plants)", "mendelian-genetics-unknown-plant"},
}

var taskPrefix = regexp.MustCompile(`task-[\dab]+-|[()]`)

// inferTask turns a number, a title or an older spelling into the name of a task. It
// returns an unknown text almost unchanged.
func inferTask(s string) string {
	for _, t := range taskNames {
		if s == t.number || s == t.title {
			return t.name
		}
	}
	s = strings.ReplaceAll(s, "mendellian", "mendelian")
	return taskPrefix.ReplaceAllString(s, "")
}

// resolveTasks returns the names of the configured tasks, in the simulator's order. Without
// configured tasks it returns all.
func resolveTasks(configured, known []string) ([]string, error) {
	if len(configured) == 0 {
		return known, nil
	}
	wanted := make(map[string]bool)
	for _, s := range configured {
		name := inferTask(s)
		if !slices.Contains(known, name) {
			return nil, wrong("env.scienceworld.tasks: unknown task %q\n  hint: one of %s",
				s, strings.Join(known, ", "))
		}
		if wanted[name] {
			return nil, wrong("env.scienceworld.tasks: the task %s is named twice\n  hint: name it once", name)
		}
		wanted[name] = true
	}
	var tasks []string
	for _, name := range known {
		if wanted[name] {
			tasks = append(tasks, name)
		}
	}
	return tasks, nil
}

// checkElectrical refuses a task about circuits without electrical actions, like the
// Python package. The simulator itself does not refuse it.
func checkElectrical(task, simplifications string) error {
	electrical := strings.Contains(task, "power-component") || strings.Contains(task, "conductivity")
	if electrical && strings.Contains(simplifications, "noElectricalAction") {
		return fmt.Errorf("task %s needs electrical actions, which env.scienceworld.simplifications = %q removes"+
			"\n  hint: remove noElectricalAction; easy keeps these actions in this task", task, simplifications)
	}
	return nil
}
