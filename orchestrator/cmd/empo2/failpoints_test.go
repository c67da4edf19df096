package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"modernc.org/sqlite"
)

// A fail point is a write to run.db. SQLite calls a hook before it inserts,
// changes or deletes a row, of the ledger or of the memory, and before it commits
// a transaction. So the program itself has no code for it.
//
// The environment variables are for the program empo2 of the tests:
const (
	failAt      = "EMPO2_TEST_FAIL_AT"     // the number of the write that kills it, counted from 1
	countWrites = "EMPO2_TEST_WRITES_FILE" // the file that gets the number of the writes so far
)

// mainWithFailPoints is main, with fail points if the environment asks for them.
func mainWithFailPoints() {
	at, _ := strconv.Atoi(os.Getenv(failAt)) // 0: at none
	file := os.Getenv(countWrites)
	if at > 0 || file != "" {
		count := 0
		sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, source string) error {
			if !strings.Contains(source, "run.db") {
				return nil
			}
			hooks, ok := conn.(sqlite.HookRegisterer)
			if !ok {
				return fmt.Errorf("a connection of type %T has no hooks", conn)
			}
			write := func() {
				if count++; count == at {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // it does not return
				}
				if file != "" {
					_ = os.WriteFile(file, []byte(strconv.Itoa(count)), 0o600) // the test misses a file that is not there
				}
			}
			hooks.RegisterPreUpdateHook(func(sqlite.SQLitePreUpdateData) { write() })
			hooks.RegisterCommitHook(func() int32 { write(); return 0 })
			return nil
		})
	}
	if os.Getenv(tellStats) != "" {
		go answerStats(os.Stdin, os.NewFile(3, "answers"))
	}
	main()
}

// tellStats is the variable that lets empo2 answer each line of its standard input
// with a line of stats on descriptor 3.
const tellStats = "EMPO2_TEST_STATS"

// answerStats answers until its input ends.
func answerStats(questions io.Reader, answers io.WriteCloser) {
	defer answers.Close()
	for lines := bufio.NewScanner(questions); lines.Scan(); {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintf(answers, "%d %d\n", m.HeapAlloc, runtime.NumGoroutine())
	}
}
