package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/demos"
	"github.com/empo2/empo2/sampler/rollout"
)

type demosCmd struct {
	common
	Env   string `placeholder:"NAME" help:"Environment. Default: env.name."`
	Out   string `required:"" placeholder:"FILE" help:"File to write, JSON lines."`
	Count int    `default:"1000" placeholder:"N" help:"Episodes of the teacher."`
	Seed  uint64 `default:"0" placeholder:"N" help:"Seed of the teacher's episodes."`
}

// Help is shown by empo2 demos --help.
func (demosCmd) Help() string {
	return `Writes demonstrations for empo2 warmstart: episodes of an environment that has a
teacher. The prompts are those that the policy sees in training, tips included.
vault's teacher plays houses that no run trains on, with 2 to env.vault.doors doors
and 3 to env.vault.levers levers.

Examples:
  empo2 demos --env vault --count 2000 --out demos.jsonl
  empo2 warmstart --data demos.jsonl`
}

func (cmd *demosCmd) Run(ctx context.Context, out *console) error {
	var first []string
	if cmd.Env != "" {
		first = append(first, "env.name="+cmd.Env)
	}
	c, err := cmd.load(first...)
	if err != nil {
		return err
	}
	if cmd.Count < 1 {
		return fmt.Errorf("%w: --count %d\n  hint: at least 1", errUsage, cmd.Count)
	}
	if dir := filepath.Dir(cmd.Out); !fileExists(dir) {
		return fmt.Errorf("%w: --out %s: the folder %s does not exist\n  hint: create it first", errUsage, cmd.Out, dir)
	}
	family, err := openFamily(ctx, c, out.logger(cmd.Verbose))
	if err != nil {
		return err
	}
	all, err := cmd.demonstrations(ctx, c, family)
	if err = errors.Join(err, family.Close()); err != nil {
		return err
	}
	if err := demos.Write(cmd.Out, all); err != nil {
		return err
	}
	out.note("%s", demos.Describe(all))
	out.print("%s: %d demonstrations; next: empo2 warmstart --data %s", cmd.Out, len(all), cmd.Out)
	return nil
}

func (cmd *demosCmd) demonstrations(ctx context.Context, c config.Config, family envs.Family) (
	[]demos.Demonstration, error) {
	template, err := readPromptTemplate(c)
	if err != nil {
		return nil, err
	}
	render := demos.Renderer{Env: c.Env.Name, Template: template, Keep: rollout.Keep(c.Memory.Keep)}
	teacher, ok := family.(envs.Teacher)
	if !ok {
		return nil, fmt.Errorf("%w: environment %s has no teacher\n  hint: write a file of your own; "+
			"empo2 warmstart --help shows its form", errUsage, c.Env.Name)
	}
	return render.Lessons(ctx, teacher, cmd.Seed, cmd.Count)
}
