package scienceworld

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/process"
)

// A fakeWorld replaces the simulator. Its score is ten times the number of "good"
// actions. As in the simulator, its random choices depend on everything since the last
// load.
type fakeWorld struct {
	task     string
	history  []string
	score    float64
	complete bool
	gold     bool // the gold path was asked for
}

var fakeValid = []string{"go kitchen", "good", "move apple to jar", "move jar to apple", "open door"}

// faults are shared by all fake hosts. They have the number of times that an action
// still breaks its simulator.
type faults struct {
	mu   sync.Mutex
	left map[string]int
	// drift makes all fakes but the first give other answers.
	drift bool
	hosts int
}

func (f *faults) take(action string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left[action]--
	return f.left[action] >= 0
}

// A fakeHost serves fake worlds over pipes.
type fakeHost struct {
	faults *faults
	number int
	mu     sync.Mutex
	conns  []net.Conn
	killed bool
	closed bool
	wg     sync.WaitGroup
}

func (h *fakeHost) open(context.Context) (*simulator, error) {
	client, server := net.Pipe()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.killed {
		return nil, errors.New("killed")
	}
	h.conns = append(h.conns, server, client)
	h.wg.Go(func() { (&fakeGateway{host: h}).serve(server) })
	return newSimulator(newGateway(client), entryPoint, ReadFull, Deadlines{Load: time.Minute, Step: time.Minute}), nil
}

func (h *fakeHost) kill() { h.end(&h.killed) }

func (h *fakeHost) close() { h.end(&h.closed) }

func (h *fakeHost) end(how *bool) {
	h.mu.Lock()
	*how = true
	for _, c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.wg.Wait()
}

// A fakeGateway speaks py4j for one connection.
type fakeGateway struct {
	host    *fakeHost
	world   fakeWorld
	objects map[objectID][]string
	next    int
}

func (g *fakeGateway) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 4<<20) // takes a whole batch at a time, like a socket
	for {
		command, err := readCommand(r)
		if err != nil {
			return
		}
		reply, ok := g.answer(command)
		if !ok {
			io.Copy(io.Discard, r) // hang until the connection is closed
			return
		}
		if _, err := io.WriteString(conn, reply+"\n"); err != nil {
			return
		}
	}
}

// readCommand reads the lines of one command without the final "e".
func readCommand(r *bufio.Reader) ([]string, error) {
	var lines []string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if line = strings.TrimSuffix(line, "\n"); line == "e" {
			return lines, nil
		}
		lines = append(lines, line)
	}
}

func (g *fakeGateway) answer(c []string) (string, bool) {
	switch {
	case c[0] == "m":
		return "!yv", true
	case c[0] == "c" && c[1] == "z:java.lang.String":
		list, ok := g.objects[objectID(c[4][1:])]
		if !ok {
			return "!xspy4j.Py4JException: Method join does not exist", true
		}
		return text(strings.Join(list, unescape(c[3][1:]))), true
	case c[0] == "c" && c[1] == string(entryPoint):
		return g.call(c[2], c[3:])
	case c[0] == "c" && c[2] == "toString":
		return text("[" + strings.Join(g.objects[objectID(c[1])], ", ") + "]"), true
	}
	return "!xsunknown command", true
}

func text(s string) string { return "!ys" + escape(s) }

func (g *fakeGateway) list(items ...string) string {
	id := objectID("o" + strconv.Itoa(g.next))
	g.next++
	if g.objects == nil {
		g.objects = make(map[objectID][]string)
	}
	g.objects[id] = items
	return "!yl" + string(id)
}

func (g *fakeGateway) call(method string, args []string) (string, bool) {
	w := &g.world
	switch method {
	case "load":
		*w = fakeWorld{task: unescape(args[0][1:]), gold: args[3] == "bTrue"}
		return text(""), true
	case "reset":
		*w = fakeWorld{task: w.task}
		return text(""), true
	case "step":
		return g.step(unescape(args[0][1:]))
	case "getScore":
		return "!yd" + strconv.FormatFloat(w.score, 'g', -1, 64), true
	case "getCompleted":
		return "!yb" + strconv.FormatBool(w.complete), true
	case "getNumMoves":
		return "!yi" + strconv.Itoa(len(w.history)), true
	case "freeActionLook", "freeActionInventory", "freeActionTaskDesc":
		return text(fmt.Sprintf("%s after %q", method, w.history)), true
	case "getValidActionObjectCombinations":
		w.history = append(w.history, "drew")
		return g.list(fakeValid...), true
	case "getGoldActionSequence":
		if !w.gold {
			return g.list("ERROR: Gold path was not generated."), true
		}
		return g.list(slices.Repeat([]string{"good"}, 10)...), true
	case "getValidActionObjectCombinationsJSON":
		return text(fakeJSON()), true
	}
	return g.catalogue(method), true
}

// catalogue has the answers of a simulator with two tasks of eight variations.
func (g *fakeGateway) catalogue(method string) string {
	switch method {
	case "getTaskNames":
		return g.list("boil", "power-component")
	case "getTaskMaxVariations":
		return "!yi8"
	case "getVariationsTrain":
		return g.list("0", "1", "2", "3")
	case "getVariationsDev":
		return g.list("4", "5")
	case "getVariationsTest":
		return g.list("6", "7")
	case "getPossibleActions":
		return g.list("go OBJ", "look around")
	}
	return "!xspy4j.Py4JException: Method " + method + " does not exist"
}

func (g *fakeGateway) step(action string) (string, bool) {
	w := &g.world
	w.history = append(w.history, action)
	if g.host.faults.drift && g.host.number > 1 {
		w.history = append(w.history, "drifted")
	}
	switch {
	case action == "hang" && g.host.faults.take(action):
		return "", false
	case action == "nonsense" && g.host.faults.take(action):
		return "HTTP/1.1 400 Bad Request", true
	case action == "throw":
		g.next++
		return "!xro" + strconv.Itoa(g.next-1), true
	case action == "good":
		w.score = min(1, math.Round(10*w.score+1)/10)
		w.complete = w.score == 1
	case action == "bad":
		w.score = -1
	case action != "look around" && !slices.Contains(fakeValid, action):
		w.history = w.history[:len(w.history)-1]
		return text(unknownInput), true
	}
	return text(fmt.Sprintf("done %s, %d", action, len(w.history))), true
}

func fakeJSON() string {
	type valid struct {
		Action string `json:"action"`
	}
	var v struct {
		ValidActions []valid `json:"validActions"`
	}
	for _, a := range slices.Backward(fakeValid) {
		v.ValidActions = append(v.ValidActions, valid{a})
	}
	data, _ := json.Marshal(v)
	return string(data)
}

// often allows many restarts at once.
var often = process.Budget{Restarts: 1000, Window: time.Hour}

// fakeFamily is a family with fake hosts.
func fakeFamily(t *testing.T, c Config, fs *faults) *Family {
	t.Helper()
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	f := &Family{config: c}
	f.pool = newPool(c.Concurrency, c.PerJVM, often, fs.launch)
	if err := f.pool.with(t.Context(), func(sim *simulator) (err error) {
		f.catalogue, err = readCatalogue(t.Context(), sim, c)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *faults) launch(context.Context) (host, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts++
	return &fakeHost{faults: f, number: f.hosts}, nil
}

// play opens an episode and performs the actions until one ends it.
func play(t *testing.T, f *Family, id string, actions ...string) ([]envs.Step, error) {
	t.Helper()
	e, err := f.Open(t.Context(), envs.Task{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Reset(t.Context()); err != nil {
		return nil, err
	}
	var steps []envs.Step
	for _, a := range actions {
		s, err := e.Step(t.Context(), a)
		if err != nil {
			return steps, err
		}
		if steps = append(steps, s); s.Done() {
			break
		}
	}
	return steps, nil
}
