package strategies

import (
	"context"
	"database/sql"
	"errors"

	"github.com/empo2/empo2/memory"
)

// ReflexionConfig sets up Reflexion (arXiv 2303.11366; noahshinn/reflexion@218cf0ef).
type ReflexionConfig struct {
	// Window is the number of reflections that are shown, the newest; 0: all. The
	// reference shows 3.
	Window int
	// Capacity is the largest number of reflections of a scope.
	Capacity int
}

// Reflexion keeps a list of reflections for each task and shows the last ones in
// every state of it. A reflection is the tip of a failed trial. After a success
// nothing is added.
//
// Deviation: the reference does not play a task again that it has solved, and
// reports success cumulatively. Here tasks are played as the run's plan says.
type Reflexion struct{ config ReflexionConfig }

type reflection struct {
	Tip memory.Tip `json:"tip"`
}

// OpenReflexion opens the memory in db.
func OpenReflexion(ctx context.Context, db *sql.DB, c ReflexionConfig) (memory.Strategy, error) {
	if c.Window < 0 || c.Capacity < 1 {
		return nil, errors.New("open memory: reflexion needs window ≥ 0 and capacity ≥ 1")
	}
	return open(ctx, db, "reflexion", nil, method[reflection](Reflexion{c}))
}

func (r Reflexion) recall(_ query, m *scope[reflection]) memory.Recollection {
	out := memory.Recollection{Similar: len(m.cases)}
	first := 0
	if r.config.Window > 0 {
		first = max(0, len(m.cases)-r.config.Window)
	}
	for _, c := range m.cases[first:] {
		out.Tips = append(out.Tips, m.tip(c, c.data.Tip, c.data.Tip.Text))
	}
	return out
}

func (r Reflexion) learn(e episode, m *scope[reflection]) {
	if e.Success || e.Tip.Text == "" {
		return
	}
	m.add(nil, nil, reflection{e.Tip})
	for len(m.cases) > r.config.Capacity {
		m.remove(m.cases[0])
	}
}
