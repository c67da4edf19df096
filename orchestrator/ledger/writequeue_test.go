package ledger

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// Episodes that are added at the same time share transactions. One that cannot be added
// gets an error and the others do not; after a return the episode is in the database.
func TestEpisodesAreCommittedTogether(t *testing.T) {
	const n = 200
	dir := t.TempDir()
	l := open(t, dir)
	defer l.Close()
	if err := l.AddEpisode(t.Context(), Episode{Step: 1, Episode: 7, Trajectory: json.RawMessage(`{}`)}); err != nil {
		t.Fatal(err)
	}
	reader, err := OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			e := Episode{Step: 1, Episode: i, Trajectory: json.RawMessage(fmt.Sprintf(`{"episode":%d}`, i)),
				Facts: &Facts{Turns: i}}
			if errs[i] = l.AddEpisode(t.Context(), e); errs[i] != nil {
				return
			}
			if stored, err := reader.At(t.Context(), "", 1, 0, i); err != nil || stored == nil {
				t.Errorf("episode %d was not stored when AddEpisode returned: %v", i, err)
			}
			e.Facts.Cut = 1
			errs[i] = l.UpdateEpisode(t.Context(), e)
		})
	}
	all.Wait()
	for i, err := range errs {
		if refused := err != nil && strings.Contains(err.Error(), "UNIQUE"); refused != (i == 7) {
			t.Errorf("episode %d: %v", i, err)
		}
	}
	if found := missingRows(t.Context(), l.db); len(found) > 0 {
		t.Errorf("missing rows: %v", found)
	}
	stored, err := l.Episodes(t.Context(), 1)
	if err != nil || len(stored) != n || string(stored[9].Trajectory) != `{"episode":9}` {
		t.Errorf("%d episodes, %v", len(stored), err)
	}
	counts, err := readCounts(t.Context(), l.db)
	if err != nil || counts["episodes"] != n {
		t.Errorf("counted %d, %v", counts["episodes"], err)
	}
	if err := l.UpdateEpisode(t.Context(), Episode{Step: 9, Trajectory: json.RawMessage(`{}`)}); err == nil ||
		!strings.Contains(err.Error(), "it was never added") {
		t.Errorf("an episode that was never added: %v", err)
	}
}
