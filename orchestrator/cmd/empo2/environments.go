package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/scienceworld"
	"github.com/empo2/empo2/envs/vault"
	"github.com/empo2/empo2/envs/webshop"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// families are the environments by their name in config.toml.
var families = map[string]func(context.Context, opening) (envs.Family, error){
	"vault":        openVault,
	"scienceworld": openScienceWorld,
	"webshop":      openWebShop,
	"remote":       openRemote,
	"agentgym":     openAgentGym,
	"openenv":      openOpenEnv,
	"ors":          openORS,
}

// openFamily opens the environment that the configuration names. If it fails,
// the error is a setupError, except for mistakes in the configuration.
func openFamily(ctx context.Context, o opening) (envs.Family, error) {
	name := o.config.Env.Name
	end := watchdog.Begin(ctx, "environment", "open "+environmentPlace(o.config), 0)
	family, err := families[name](ctx, o)
	end()
	var fault *config.Error
	if err = settingFault(name, err); err == nil {
		return family, nil
	}
	if !errors.As(err, &fault) {
		err = &setupError{hintAtServer(fmt.Errorf("environment %w", err))}
	}
	return nil, err
}

// settingFault turns an environment's error about a setting into one of the configuration.
func settingFault(name string, err error) error {
	var setting *envs.SettingError
	if !errors.As(err, &setting) {
		return err
	}
	text, hint := splitHint(setting)
	place, msg, named := strings.Cut(text, ": ")
	if !named {
		place, msg = "env."+name, text
	}
	return &config.Error{Place: place, Msg: msg, Hint: hint}
}

// checkNames finds mistakes in the names that a configuration gives to the prompt and the
// environment. It starts nothing.
func checkNames(c config.Config) error {
	if _, err := readPromptTemplate(c); err != nil {
		return err
	}
	if c.Env.Name != "scienceworld" {
		return nil
	}
	return settingFault(c.Env.Name, scienceWorldConfig(opening{config: c}).Check())
}

// hintAtServer adds a remedy to an error of an environment that has none.
func hintAtServer(err error) error {
	if _, hint := splitHint(err); hint != "" {
		return err
	}
	return fmt.Errorf("%w\n  hint: the log of the environment's server may say why; empo2 prompt tries it again", err)
}

func openVault(_ context.Context, o opening) (envs.Family, error) {
	v := o.config.Env.Vault
	houses := make([]uint64, len(v.Houses))
	for i, h := range v.Houses {
		houses[i] = uint64(h)
	}
	return vault.Open(vault.Config{
		Houses: houses, Doors: v.Doors, Levers: v.Levers, Score: vault.Score(v.Score),
		TrainVariations: v.TrainVariations, TestVariations: v.TestVariations,
	})
}

func openScienceWorld(ctx context.Context, o opening) (envs.Family, error) {
	return scienceworld.Open(ctx, scienceWorldConfig(o))
}

func scienceWorldConfig(o opening) scienceworld.Config {
	v := o.config.Env.ScienceWorld
	simplifications := v.Simplifications
	if simplifications == "none" {
		simplifications = ""
	}
	limit := map[envs.Split]int{}
	for split, n := range map[envs.Split]int{envs.Train: v.TrainVariations, envs.Eval: v.EvalVariations,
		envs.Test: v.EvalVariations} {
		if n > 0 {
			limit[split] = n
		}
	}
	budget, restarted := o.budget(), o.restarted("environment")
	budget.Report = func(why error) {
		o.log.Warn().Err(why).Msg("the JVM of the environment ended and is restarted")
		restarted("jvm", why)
	}
	return scienceworld.Config{
		Tasks: v.Tasks, Limit: limit, Simplifications: simplifications, StepLimit: v.StepLimit,
		Reads: scienceworld.Reads(v.Reads), Isolation: scienceworld.Isolation(v.Isolation),
		Actions:     scienceworld.Actions(v.Actions),
		Concurrency: v.Concurrency, Jar: v.Jar, JarSHA256: v.JarSHA256, Nondeterministic: !v.Deterministic,
		Java: v.Java, Inherit: v.Env, Budget: budget, Log: o.log,
	}
}

func openWebShop(ctx context.Context, o opening) (envs.Family, error) {
	v := o.config.Env.WebShop
	return webshop.Open(ctx, webshop.Config{
		DataDir: v.Data, Items: v.Items, Attributes: v.Attributes, OwnData: v.OwnData,
		Reward: webshop.RewardMode(v.Reward),
		Mode:   webshop.Mode(v.Mode), Goals: webshop.GoalKind(v.Goals), SeedMode: webshop.SeedMode(v.SeedMode),
		Nouns: v.Nouns, NumProducts: v.Products, MaxSteps: v.MaxTurns, Seed: o.config.Run.Seed,
	})
}

// describeEnv describes the environment and the groups of a run.
func describeEnv(c config.Config) []string {
	what := c.Env.Name
	if what == "vault" {
		v := c.Env.Vault
		what = fmt.Sprintf("vault with %d doors and %d levers (chance %s per episode)", v.Doors, v.Levers,
			odds(v.Levers, v.Doors))
	}
	return []string{what, fmt.Sprintf("%s of %s per step", counted(c.Algorithm.Groups, "group"),
		counted(c.Algorithm.GroupSize, "episode"))}
}
