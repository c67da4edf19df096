package vault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/empo2/empo2/envs"
)

var (
	_ envs.Solver  = (*Family)(nil)
	_ envs.Teacher = (*Family)(nil)
)

// The teacher's choices. They are those of the embedded policy's pre-training.
const (
	guided      = 0.7  // share of lessons that show tips
	tipsHidden  = 0.1  // share of their turns that show none nevertheless
	maxDoorTips = 3    // new tips at a door, at most
	luck        = 0.75 // chance of the right lever if no tip names it: lessons reach many doors
)

// A fact says whether a lever opens a door.
type fact struct {
	door, lever string
	opens       bool
}

// advice is a tip: what one episode found out about its doors.
type advice []fact

// text is the tip as the policy should write it. The verdict stands before the
// lever, so that a causal model knows the verdict when it writes the lever.
func (a advice) text() string {
	parts := make([]string, len(a))
	for i, f := range a {
		verdict := "avoid"
		if f.opens {
			verdict = "pull"
		}
		parts[i] = fmt.Sprintf("at %s %s %s", f.door, verdict, f.lever)
	}
	return "A" + strings.Join(parts, ", ")[1:] + "."
}

func (a advice) mentions(door string) bool {
	return slices.ContainsFunc(a, func(f fact) bool { return f.door == door })
}

// Lesson implements [envs.Teacher]. Each lesson is in a fresh house for
// pre-training, with 2 to K doors and 3 to M levers. Houses for reinforcement
// learning are of another class, so a lesson never shows one of them.
func (f *Family) Lesson(ctx context.Context, seed, n uint64) (envs.Lesson, error) {
	if err := context.Cause(ctx); err != nil {
		return envs.Lesson{}, err
	}
	rng := stream(seed, lessonStream, n)
	h := drawHouse(rng)
	for class(canonical(h.rule)) >= gateClass {
		h = drawHouse(rng)
	}
	h.seed = rng.Uint64()
	k, m := between(rng, 2, f.config.Doors), between(rng, 3, f.config.Levers)
	t := teacher{rng: rng, corridor: h.corridor(0, k, m), shown: map[fact]bool{}}
	if rng.Float64() < guided {
		t.notebook = t.pastTips()
	}
	lesson, err := t.play(ctx, f.config.Score == Partial)
	id := fmt.Sprintf("pretraining-house-%016x/%d-doors-%d-levers", fingerprint(canonical(h.rule)), k, m)
	lesson.Task = envs.Task{ID: id, Scope: id, Seed: h.seed, Instruction: instruction, Reflection: reflection}
	return lesson, err
}

// between draws from least to most. A smaller most is drawn always.
func between(rng *rand.Rand, least, most int) int {
	if most <= least {
		return most
	}
	return least + rng.IntN(most-least+1)
}

// A teacher plays one lesson.
type teacher struct {
	rng      *rand.Rand
	corridor corridor
	notebook []advice      // tips that are not shown yet
	shown    map[fact]bool // what the shown tips say
}

// play follows the shown tips and is lucky where they do not say enough.
func (t *teacher) play(ctx context.Context, partial bool) (envs.Lesson, error) {
	e := &episode{corridor: t.corridor, partial: partial}
	now, err := e.Reset(ctx)
	if err != nil {
		return envs.Lesson{}, err
	}
	var lesson envs.Lesson
	var found advice
	most := 1 + t.rng.IntN(maxDoorTips)
	for door := 0; ; door++ {
		turn := envs.LessonTurn{Observation: now, Tips: t.tips(t.corridor.doors[door], most)}
		lever := t.lever(door)
		turn.Action = "pull " + lever
		lesson.Turns = append(lesson.Turns, turn)
		found = append(found, fact{t.corridor.doors[door], lever, lever == t.corridor.right[door]})
		step, err := e.Step(ctx, turn.Action)
		if err != nil {
			return envs.Lesson{}, err
		}
		if now = step.Observation; step.Done() {
			lesson.Final, lesson.Score, lesson.Success, lesson.Tip = now, step.Score, step.Success, found.text()
			return lesson, nil
		}
	}
}

// tips takes up to most tips about a door from the notebook.
func (t *teacher) tips(door string, most int) []string {
	if t.rng.Float64() < tipsHidden {
		return nil
	}
	var texts []string
	t.notebook = slices.DeleteFunc(t.notebook, func(a advice) bool {
		if len(texts) == most || !a.mentions(door) {
			return false
		}
		texts = append(texts, a.text())
		for _, f := range a {
			t.shown[f] = true
		}
		return true
	})
	return texts
}

// lever chooses the lever that a shown tip says to pull. Without one it is
// probably the right lever, and never one that a shown tip says to avoid.
func (t *teacher) lever(door int) string {
	name, right := t.corridor.doors[door], t.corridor.right[door]
	if t.shown[fact{name, right, true}] || t.rng.Float64() < luck {
		return right
	}
	var wrong []string
	for _, lever := range t.corridor.listed[door] {
		if lever != right && !t.shown[fact{name, lever, false}] {
			wrong = append(wrong, lever)
		}
	}
	if len(wrong) == 0 {
		return right
	}
	return wrong[t.rng.IntN(len(wrong))]
}

// pastTips returns the distinct tips of simulated earlier episodes, shuffled.
// Either one door stopped all of them, or they all had the same skill. Some
// notebooks have only facts about single doors, most of them warnings.
func (t *teacher) pastTips() []advice {
	doors, kind := len(t.corridor.doors), t.rng.Float64()
	var tips []advice
	switch {
	case kind < 0.3:
		for range between(t.rng, 2, 5*doors) {
			tips = append(tips, t.scattered())
		}
	case kind < 0.65:
		skill := make([]float64, doors)
		early := []float64{0.7, 0.95}[t.rng.IntN(2)]
		for i := range t.rng.IntN(doors) {
			skill[i] = early
		}
		tips = t.pastEpisodes(skill)
	default:
		tips = t.pastEpisodes(slices.Repeat([]float64{t.rng.Float64()}, doors))
	}
	seen := map[string]bool{}
	tips = slices.DeleteFunc(tips, func(a advice) bool {
		text := a.text()
		defer func() { seen[text] = true }()
		return seen[text]
	})
	t.rng.Shuffle(len(tips), func(i, j int) { tips[i], tips[j] = tips[j], tips[i] })
	return tips
}

// pastEpisodes returns the tips of episodes that pull the right lever of door i
// with probability skill[i].
func (t *teacher) pastEpisodes(skill []float64) []advice {
	tips := make([]advice, between(t.rng, 1, 12*len(skill)))
	for n := range tips {
		for i, chance := range skill {
			opens := t.rng.Float64() < chance
			tips[n] = append(tips[n], t.fact(i, opens))
			if !opens {
				break
			}
		}
	}
	return tips
}

// scattered is a tip about one or two doors.
func (t *teacher) scattered() advice {
	doors := t.rng.Perm(len(t.corridor.doors))[:min(len(t.corridor.doors), []int{1, 1, 2}[t.rng.IntN(3)])]
	slices.Sort(doors)
	var a advice
	for _, door := range doors {
		a = append(a, t.fact(door, t.rng.Float64() < 0.1))
	}
	return a
}

// fact is a true fact about a door: its right lever or one of the others.
func (t *teacher) fact(door int, opens bool) fact {
	right := t.corridor.right[door]
	if opens {
		return fact{t.corridor.doors[door], right, true}
	}
	wrong := slices.DeleteFunc(slices.Clone(t.corridor.listed[door]), func(l string) bool { return l == right })
	return fact{t.corridor.doors[door], wrong[t.rng.IntN(len(wrong))], false}
}
