package scienceworld

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process"
)

// exitGrace is the time that a JVM has to exit after its stdin ended.
const exitGrace = 5 * time.Second

// launcher starts JVMs.
type launcher struct {
	java    java
	jar     jar
	flags   []string
	inherit []string      // environment variables
	timeout time.Duration // until the port is known
	log     zerolog.Logger
}

// A jvm is one child process. It has its own scratch directory as working
// directory, because the simulator writes there.
type jvm struct {
	*process.Process
	port    int
	scratch string
}

// launch starts a JVM and waits for its port.
func (l launcher) launch(ctx context.Context) (*jvm, error) {
	scratch, err := os.MkdirTemp("", "empo2-scienceworld-")
	if err != nil {
		return nil, err
	}
	j := &jvm{scratch: scratch}
	if err := j.start(ctx, l); err != nil {
		os.RemoveAll(scratch)
		return nil, fmt.Errorf("start %s %s: %w", l.java.path, l.jar.path, err)
	}
	return j, nil
}

func (j *jvm) start(ctx context.Context, l launcher) error {
	if err := copyFile(filepath.Join(j.scratch, typeIDsName), l.jar.typeIDs); err != nil {
		return err
	}
	args := slices.Concat([]string{l.java.path}, l.flags,
		[]string{"-classpath", l.jar.path, "py4j.GatewayServer", "--die-on-broken-pipe", "0"})
	var err error
	j.Process, err = process.Start(ctx, process.Command{
		Name: "jvm", Args: args, Dir: j.scratch, Inherit: l.inherit, StartTimeout: l.timeout,
		Ready:  j.readPort,
		Stdin:  true, // the gateway exits when its stdin ends
		Stdout: func(string) bool { return false },
		Grace:  exitGrace, Log: l.log.With().Str("env", Name).Logger(),
	})
	return err
}

// readPort reads the port from the first line of stdout. Later lines are
// ignored.
func (j *jvm) readPort(line string) (bool, error) {
	n, err := strconv.Atoi(line)
	if err != nil || n <= 0 || n > 65535 {
		return false, fmt.Errorf("no port in the JVM's first line %s", shorten(line))
	}
	j.port = n
	return true, nil
}

// kill ends the process at once, even if it hangs, and removes its directory.
func (j *jvm) kill() {
	j.Kill()
	<-j.Done()
	os.RemoveAll(j.scratch)
}

// close waits for the process to exit, kills it after exitGrace, and removes its
// directory.
func (j *jvm) close() {
	j.Stop()
	os.RemoveAll(j.scratch)
}

// said returns an error with the last lines of stderr, or nil if there are none.
func (j *jvm) said() error {
	if tail := j.Tail(); len(tail) > 0 {
		return errors.New(strings.Join(tail, "\n"))
	}
	return nil
}

// restoreTypeIDs writes the published table again. An older simulator of this
// JVM may have added lines, which a newer one must not read.
func (j *jvm) restoreTypeIDs(from string) error {
	return copyFile(filepath.Join(j.scratch, typeIDsName), from)
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}
