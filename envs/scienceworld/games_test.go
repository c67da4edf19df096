package scienceworld

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

var update = flag.Bool("update", false, "write the current answers into testdata")

// A game is a script of actions with the simulator's answers. The answers were stored
// when all recordings of the Python package were replayed without a difference. Games
// replace the recordings where these are not available.
type game struct {
	Task            string   `json:"task"`
	Variation       int      `json:"variation"`
	Simplifications string   `json:"simplifications"`
	Actions         []string `json:"actions"`
	Answers         []answer `json:"answers"` // the first is the answer to the reset
}

// An answer is a short record, with the texts and valid actions as a digest.
type answer struct {
	Score  int    `json:"score"`
	Moves  int    `json:"moves"`
	Valid  int    `json:"valid"`
	Digest string `json:"digest"`
}

func abridge(r record) answer {
	all := strings.Join(append([]string{r.observation, r.look, r.inventory, r.taskDesc}, r.valid...), "\n")
	return answer{Score: r.score, Moves: r.moves, Valid: len(r.valid), Digest: digest(all)[:16]}
}

// Each game gives the same answers with both kinds of isolation, two at a time, and on
// simulators that have played other games before.
func TestGames(t *testing.T) {
	const path = "testdata/games.json"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var games []game
	if err := json.Unmarshal(data, &games); err != nil {
		t.Fatal(err)
	}
	c := live(t)
	c.Concurrency = 2
	f := openLive(t, c)
	playGames(t, f, games, *update)
	playGames(t, f, games[3:], false)
	if *update {
		data, err := json.MarshalIndent(games, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.Isolation = IsolateJVM
	playGames(t, openLive(t, c), games[:1], false)
}

func playGames(t *testing.T, f *Family, games []game, record bool) {
	t.Helper()
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(f.config.Concurrency)
	for i := range games {
		g.Go(func() error {
			return f.pool.with(ctx, func(sim *simulator) error {
				answers, err := playGame(ctx, sim, games[i])
				if record {
					games[i].Answers = answers
				}
				if d := cmp.Diff(games[i].Answers, answers); err == nil && d != "" {
					t.Errorf("%s: %s", games[i].Task, d)
				}
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func playGame(ctx context.Context, sim *simulator, g game) ([]answer, error) {
	if err := sim.load(ctx, g.Task, g.Variation, g.Simplifications); err != nil {
		return nil, err
	}
	rec, err := sim.restart(ctx)
	answers := []answer{abridge(rec)}
	for _, action := range g.Actions {
		if err != nil {
			break
		}
		rec, err = sim.act(ctx, action)
		answers = append(answers, abridge(rec))
	}
	return answers, err
}
