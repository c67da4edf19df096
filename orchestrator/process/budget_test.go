package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A process that is killed while it starts is started again within the budget. A
// process that ends by itself is not.
func TestFirstStartIsWithinTheBudget(t *testing.T) {
	f := func(body string, restarts, wantStarts int, want string) {
		t.Helper()
		count := filepath.Join(t.TempDir(), "count")
		text := fmt.Sprintf("echo x >> %s; n=$(wc -l < %s); %s; echo ready; read -r line", count, count, body)
		c := script(t.TempDir(), text)
		c.Ready = func(line string) (bool, error) { return line == "ready", nil }
		c.Stdin = true
		c.Kills = func() int { return -1 }
		s, err := Keep(t.Context(), c, Budget{Restarts: restarts, Window: time.Hour, Pause: 1})
		if err == nil {
			s.Close()
		}
		starts, _ := os.ReadFile(count)
		if n := strings.Count(string(starts), "x"); n != wantStarts || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %d starts, want %d; %v", body, n, wantStarts, err)
		}
	}
	f("[ $n -lt 3 ] && kill -KILL $$", 3, 3, "<nil>")
	f("kill -TERM $$", 2, 3, "given up after 2 restarts")
	f("exit 7", 3, 1, "exit status 7")
	f("kill -ILL $$", 3, 1, "signal: illegal instruction")
}

func TestErrorsHaveNoTracebacks(t *testing.T) {
	c := script(t.TempDir(), `echo loading
echo 'Traceback (most recent call last):'
echo '  File "serve.py", line 3, in <module>'
echo '    import torch'
echo 'ModuleNotFoundError: no torch'
exit 1`)
	c.Ready = func(string) (bool, error) { return false, nil }
	_, err := Start(t.Context(), c)
	var exit *ExitError
	if !errors.As(err, &exit) || !slices.Equal(exit.Output, []string{"loading", "ModuleNotFoundError: no torch"}) {
		t.Errorf("%v", err)
	}
	if got := withoutTraceback([]string{"  indented", "text"}); len(got) != 2 {
		t.Errorf("lines that are no traceback: %q", got)
	}
}
