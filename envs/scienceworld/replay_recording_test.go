package scienceworld

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

// A recordedStep is what the Python package returned for one action.
type recordedStep struct {
	Action       string   `json:"action"`
	Obs          string   `json:"obs"`
	Reward       int      `json:"reward"`
	Done         bool     `json:"done"`
	Score        int      `json:"score"`
	Moves        int      `json:"moves"`
	Look         string   `json:"look"`
	Inv          string   `json:"inv"`
	TaskDesc     *string  `json:"task_desc"`
	ValidN       int      `json:"valid_n"`
	ValidSHA256  string   `json:"valid_sha256"`
	Valid        []string `json:"valid"`
	RawScore     float64  `json:"raw_score"`
	RawCompleted bool     `json:"raw_completed"`
}

type recordedEpisode struct {
	ID                  string         `json:"id"`
	Task                string         `json:"task"`
	Variation           int            `json:"variation"`
	Simplification      string         `json:"simplification"`
	TaskDesc            string         `json:"task_desc"`
	SimplificationsUsed string         `json:"simplifications_used"`
	Reset               recordedStep   `json:"reset"`
	Steps               []recordedStep `json:"steps"`
	Final               recordedFinal  `json:"final"`
}

type recordedFinal struct {
	GoalProgress    string   `json:"goal_progress"`
	NumMoves        int      `json:"num_moves"`
	TaskDescription string   `json:"task_description"`
	RunHistory      string   `json:"run_history_json_sha256"`
	PossibleObjects []string `json:"possible_objects"`
	ValidJSONSHA256 string   `json:"valid_json_sha256"`
	ValidJSONN      int      `json:"valid_json_n"`
	ValidJSON       *string  `json:"valid_json"`
}

// By default one episode in replayShare is replayed. With EMPO2_RECORDINGS or
// EMPO2_RECORDINGS_ALL=1 all episodes are replayed.
const replayShare = 6

// Each recorded episode gives the same texts, rewards, scores, flags, clocks and valid
// actions, on reused simulators that share a JVM.
func TestReplayRecordingTraces(t *testing.T) {
	path := recordings(t, "traces.jsonl.gz")
	c := live(t)
	c.Concurrency = max(2, runtime.GOMAXPROCS(0))
	f := openLive(t, c)
	all := os.Getenv("EMPO2_RECORDINGS_ALL") == "1" || os.Getenv("EMPO2_RECORDINGS") != ""
	var episodes []recordedEpisode
	eachRecording(t, path, "episode", func(e recordedEpisode) {
		if all || share(e.ID) == 0 {
			episodes = append(episodes, e)
		}
	})
	var steps atomic.Int64
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(c.Concurrency)
	for _, e := range episodes {
		g.Go(func() error {
			return f.pool.with(ctx, func(sim *simulator) error {
				differences, err := replayRecording(ctx, sim, e)
				if err != nil {
					return fmt.Errorf("%s: %w", e.ID, err)
				}
				for _, d := range differences {
					t.Errorf("%s: %s", e.ID, d)
				}
				steps.Add(int64(len(e.Steps) + 1))
				return nil
			})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("replayed %d episodes, %d steps", len(episodes), steps.Load())
}

func share(id string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(id))
	return h.Sum32() % replayShare
}

// replayRecording plays an episode with the same order of calls as the recording, and
// lists the differences.
func replayRecording(ctx context.Context, sim *simulator, e recordedEpisode) (differences []string, err error) {
	differ := func(where string, want, got any) {
		if d := cmp.Diff(want, got); d != "" {
			differences = append(differences, fmt.Sprintf("%s (-recorded +replayed):\n%s", where, d))
		}
	}
	if err := sim.load(ctx, e.Task, e.Variation, e.Simplification); err != nil {
		return nil, err
	}
	rec, err := sim.restart(ctx)
	if err != nil {
		return nil, err
	}
	compareStep(differ, "reset", e, e.Reset, rec)
	used, err := callAs[string](ctx, sim, "getSimplificationsUsed")
	if err != nil {
		return nil, err
	}
	differ("simplifications used", e.SimplificationsUsed, used)
	ep := &episode{family: &Family{config: Config{StepLimit: 100, MaxActions: -1}}}
	last := rec
	for i, s := range e.Steps {
		rec, err := sim.act(ctx, s.Action)
		if err != nil {
			return nil, err
		}
		where := fmt.Sprintf("step %d, %q", i, s.Action)
		compareStep(differ, where, e, s, rec)
		out := ep.step(rec, rec.score-last.score, "")
		differ(where+" done", s.Done, out.Done())
		differ(where+" reward", float64(s.Reward), out.Reward)
		last = rec
	}
	return differences, compareFinal(ctx, sim, differ, e.Final)
}

func compareStep(differ func(string, any, any), where string, e recordedEpisode, want recordedStep, got record) {
	differ(where+" observation", want.Obs, got.observation)
	differ(where+" score", want.Score, got.score)
	differ(where+" raw score", want.RawScore, got.raw)
	differ(where+" completed", want.RawCompleted, got.completed)
	differ(where+" moves", want.Moves, got.moves)
	differ(where+" look", want.Look, got.look)
	differ(where+" inventory", want.Inv, got.inventory)
	differ(where+" number of valid actions", want.ValidN, len(got.valid))
	differ(where+" valid actions", want.ValidSHA256, digest(strings.Join(got.valid, "\n")))
	if want.Valid != nil {
		differ(where+" valid actions", want.Valid, got.valid)
	}
	desc := e.TaskDesc
	if want.TaskDesc != nil {
		desc = *want.TaskDesc
	}
	differ(where+" task", desc, got.taskDesc)
}

func compareFinal(ctx context.Context, sim *simulator, differ func(string, any, any), want recordedFinal) error {
	var failed error
	text := func(method string) string {
		s, err := callAs[string](ctx, sim, method)
		failed = cmpOr(failed, err)
		return s
	}
	differ("goal progress", want.GoalProgress, text("getGoalProgressStr"))
	moves, err := callAs[int](ctx, sim, "getNumMoves")
	differ("moves at the end", want.NumMoves, moves)
	differ("task description", want.TaskDescription, text("getTaskDescription"))
	differ("run history", want.RunHistory, digest(text("getRunHistoryJSON")))
	objects, objectsErr := sim.strings(ctx, "getPossibleObjects")
	differ("possible objects", slices.Concat(want.PossibleObjects), objects)
	valid := text("getValidActionObjectCombinationsJSON")
	differ("valid actions as JSON", want.ValidJSONSHA256, digest(valid))
	if want.ValidJSON != nil {
		differ("valid actions as JSON", *want.ValidJSON, valid)
	}
	var list struct{ ValidActions []json.RawMessage }
	jsonErr := json.Unmarshal([]byte(valid), &list)
	differ("number of valid actions as JSON", want.ValidJSONN, len(list.ValidActions))
	return cmpOr(failed, err, objectsErr, jsonErr)
}

func cmpOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
