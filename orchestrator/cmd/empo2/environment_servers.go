package main

import (
	"context"
	"encoding"
	"encoding/json"
	"os"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/agentgym"
	"github.com/empo2/empo2/envs/openenv"
	"github.com/empo2/empo2/envs/ors"
	"github.com/empo2/empo2/envs/remote"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// environmentServer describes a server of any protocol. If it needs a token, set
// EMPO2_ENV_KEY.
func environmentServer(url string, timeout float64, log zerolog.Logger) exchange.Server {
	return exchange.Server{URL: url, Token: os.Getenv("EMPO2_ENV_KEY"), Timeout: seconds(timeout), Log: log}
}

// environmentPlace names an environment and its server, if it has one.
func environmentPlace(c config.Config) string {
	e := c.Env
	address := map[string]string{
		"remote": e.Remote.URL, "agentgym": e.AgentGym.URL, "openenv": e.OpenEnv.URL, "ors": e.ORS.URL,
	}[e.Name]
	if address == "" {
		return e.Name
	}
	return e.Name + " at " + safetext.URL(address)
}

func openRemote(ctx context.Context, o opening) (envs.Family, error) {
	v := o.config.Env.Remote
	splits := numbered.Splits{Train: numbered.Range(0, uint64(v.TrainTasks-1))}
	if v.TestTasks > 0 {
		splits.Test = numbered.Range(uint64(v.TrainTasks), uint64(v.TrainTasks+v.TestTasks-1))
	}
	return opened(remote.Open(ctx, remote.Config{
		Server: environmentServer(v.URL, 0, o.log), Splits: splits, Concurrency: o.config.Rollout.Concurrency,
	}))
}

func openAgentGym(ctx context.Context, o opening) (envs.Family, error) {
	v := o.config.Env.AgentGym
	splits, err := readSplits("env.agentgym", v.Train, v.Eval, v.Test)
	if err != nil {
		return nil, err
	}
	return opened(agentgym.Open(ctx, agentgym.Config{
		Server: environmentServer(v.URL, v.TimeoutSeconds, o.log), Dialect: v.Dialect, Splits: splits,
		Instruction: v.Instruction, Concurrency: o.config.Rollout.Concurrency,
	}))
}

func openOpenEnv(ctx context.Context, o opening) (envs.Family, error) {
	v := o.config.Env.OpenEnv
	splits, err := readSplits("env.openenv", v.Train, v.Eval, v.Test)
	if err != nil {
		return nil, err
	}
	action, err := readObject("env.openenv.action", v.Action, `for example action = '{"message": "{action}"}'`)
	if err != nil {
		return nil, err
	}
	options, err := readObject("env.openenv.options", v.Options, `for example options = '{"level": 1}'`)
	if err != nil {
		return nil, err
	}
	return opened(openenv.Open(ctx, openenv.Config{
		Server: environmentServer(v.URL, v.TimeoutSeconds, o.log), Splits: splits, Options: options, Action: action,
		Observation: v.Observation, Instruction: v.Instruction, Concurrency: v.Concurrency,
	}))
}

func openORS(ctx context.Context, o opening) (envs.Family, error) {
	v := o.config.Env.ORS
	to := ors.Config{
		Server: environmentServer(v.URL, v.TimeoutSeconds, o.log), Environment: v.Environment,
		Tool: v.Tool, Concurrency: o.config.Rollout.Concurrency,
	}
	err := readKeys("env.ors", textKey{"train", v.Train, &to.Train}, textKey{"eval", v.Eval, &to.Eval},
		textKey{"test", v.Test, &to.Test})
	if err != nil {
		return nil, err
	}
	if to.Input, err = readObject("env.ors.input", v.Input,
		`for example input = '{"answer": "{action}"}'`); err != nil {
		return nil, err
	}
	return opened(ors.Open(ctx, to))
}

// opened returns a nil interface on an error. A conversion of a nil pointer would
// give an interface that is not nil.
func opened[F envs.Family](family F, err error) (envs.Family, error) {
	if err != nil {
		return nil, err
	}
	return family, nil
}

// readSplits reads the keys train, eval and test of a table.
func readSplits(table, train, eval, test string) (s numbered.Splits, err error) {
	err = readKeys(table, textKey{"train", train, &s.Train}, textKey{"eval", eval, &s.Eval},
		textKey{"test", test, &s.Test})
	return s, err
}

// textKey is a key of a table whose text is read into to.
type textKey struct {
	name, text string
	to         encoding.TextUnmarshaler
}

func readKeys(table string, keys ...textKey) error {
	for _, key := range keys {
		if wrong := key.to.UnmarshalText([]byte(key.text)); wrong != nil {
			msg, hint := splitHint(wrong)
			return &config.Error{Place: table + "." + key.name, Msg: msg, Hint: hint}
		}
	}
	return nil
}

// readObject reads a JSON object. It returns nil for an empty text.
func readObject(key, text, hint string) (map[string]any, error) {
	if text == "" {
		return nil, nil
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
		return nil, &config.Error{Place: key, Msg: "is not a JSON object", Hint: hint}
	}
	return object, nil
}
