package scienceworld

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// entryPoint is the name of the object that the gateway serves.
const entryPoint objectID = "t"

// separator joins a list into one string in Java. The simulator's texts do not contain
// it.
const separator = "\x1f"

// A simulator is one ScienceWorld behind its gateway. One goroutine at a time uses it.
// Its methods return an error only if the simulator itself fails, not after a bad
// action.
type simulator struct {
	gw       *gateway
	target   objectID
	reads    Reads
	deadline Deadlines
}

func newSimulator(gw *gateway, target objectID, reads Reads, d Deadlines) *simulator {
	return &simulator{gw: gw, target: target, reads: reads, deadline: d}
}

// broken reports whether the connection can no longer be used.
func (s *simulator) broken() bool { return s.gw.err != nil }

// load loads a task. A non-empty answer of the simulator is an error text.
func (s *simulator) load(ctx context.Context, task string, variation int, simplifications string) error {
	return s.loadTask(ctx, task, variation, simplifications, false)
}

// loadWithGold loads a task and computes its gold path.
func (s *simulator) loadWithGold(ctx context.Context, task string, variation int, simplifications string) error {
	return s.loadTask(ctx, task, variation, simplifications, true)
}

func (s *simulator) loadTask(ctx context.Context, task string, variation int, simplifications string, gold bool) error {
	answer, err := callAs[string](ctx, s, "load", task, variation, simplifications, gold)
	if err == nil && answer != "" {
		err = errors.New(answer)
	}
	if err != nil {
		return fmt.Errorf("load %s, variation %d: %w", task, variation, err)
	}
	return nil
}

// restart resets the loaded task and looks around, like the Python package before its
// first observation.
func (s *simulator) restart(ctx context.Context) (record, error) {
	if _, err := s.call(ctx, "reset"); err != nil {
		return record{}, fmt.Errorf("reset: %w", err)
	}
	return s.act(ctx, "look around")
}

// act performs an action and reads the values of the new state, all in one write.
// With ReadFull the list of valid actions is an object. Its name is known in advance,
// so the same write also reads the text of the list and frees it.
func (s *simulator) act(ctx context.Context, action string) (record, error) {
	commands := []string{callCommand(s.target, "step", action)}
	for _, method := range s.reads.methods() {
		commands = append(commands, callCommand(s.target, method))
	}
	list := s.gw.nextObject(0)
	if s.reads == ReadFull {
		commands = append(commands, joinCommand(list), freeCommand(list))
	}
	results, err := s.gw.do(ctx, s.deadline.Step, commands...)
	if err != nil {
		return record{}, fmt.Errorf("step: %w", err)
	}
	rec, err := s.decode(results)
	if err == nil && s.reads == ReadFull {
		rec.valid, err = s.listText(ctx, results[validAt:], list)
	}
	if err != nil {
		return record{}, fmt.Errorf("step: %w", err)
	}
	return rec, nil
}

func joinCommand(list objectID) string {
	return callCommand(class("java.lang.String"), "join", separator, list)
}

// listText decodes three results: a list, its text, and its release. If an exception
// got the expected name, it requests the text again by the real name.
func (s *simulator) listText(ctx context.Context, results []result, expected objectID) ([]string, error) {
	var list objectID
	if err := results[0].into(&list); err != nil {
		return nil, err
	}
	joined := results[1]
	if list != expected {
		again, err := s.gw.do(ctx, s.deadline.Step, joinCommand(list), freeCommand(list))
		if err != nil {
			return nil, err
		}
		joined = again[0]
	}
	var text string
	if err := joined.into(&text); err != nil {
		return nil, err
	}
	if text == "" {
		return nil, nil
	}
	return strings.Split(text, separator), nil
}

// call calls a method of the simulator.
func (s *simulator) call(ctx context.Context, method string, args ...any) (any, error) {
	limit := s.deadline.Step
	if method == "load" || method == "reset" {
		limit = s.deadline.Load
	}
	v, err := s.gw.call(ctx, limit, callCommand(s.target, method, args...))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return v, nil
}

// callAs calls a method that returns a T.
func callAs[T any](ctx context.Context, s *simulator, method string, args ...any) (T, error) {
	v, err := s.call(ctx, method, args...)
	if err != nil {
		var zero T
		return zero, err
	}
	t, ok := v.(T)
	if !ok {
		return t, fmt.Errorf("%s: the reply is of type %T, want %T", method, v, t)
	}
	return t, nil
}

// strings calls a method that returns a list of strings.
func (s *simulator) strings(ctx context.Context, method string) ([]string, error) {
	list := s.gw.nextObject(0)
	results, err := s.gw.do(ctx, s.deadline.Step, callCommand(s.target, method), joinCommand(list), freeCommand(list))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	return s.listText(ctx, results, list)
}

// ints calls a method that returns a list of integers.
func (s *simulator) ints(ctx context.Context, method string) ([]int, error) {
	list := s.gw.nextObject(0)
	results, err := s.gw.do(ctx, s.deadline.Step,
		callCommand(s.target, method), callCommand(list, "toString"), freeCommand(list))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	var text string
	if err := results[1].into(&text); err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	var numbers []int
	if err := json.Unmarshal([]byte(text), &numbers); err != nil { // "[0, 1]" is valid JSON
		return nil, fmt.Errorf("%s: %w", method, safetext.JSONError(err))
	}
	return numbers, nil
}

// validInOrder returns the valid actions in the order of the simulator's JSON list.
// Other than the plain list, it is not sorted.
func (s *simulator) validInOrder(ctx context.Context) ([]string, error) {
	const method = "getValidActionObjectCombinationsJSON"
	text, err := callAs[string](ctx, s, method)
	if err != nil {
		return nil, err
	}
	var list struct {
		ValidActions []struct {
			Action string `json:"action"`
		} `json:"validActions"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("%s: %w", method, safetext.JSONError(err))
	}
	actions := make([]string, len(list.ValidActions))
	for i, v := range list.ValidActions {
		actions[i] = v.Action
	}
	return actions, nil
}
