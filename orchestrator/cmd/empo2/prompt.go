package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

type promptCmd struct {
	common
	Task   string   `default:"0" placeholder:"N|ID" help:"Number of the task in the split, or its id."`
	Split  string   `default:"train" enum:"train,eval,test" help:"Tasks to choose from: train, eval or test."`
	Action []string `sep:"none" placeholder:"TEXT" help:"Reply of the policy, to see the next prompt. Repeatable."`
	Tip    []string `sep:"none" placeholder:"TEXT" help:"Tip to show. Repeatable. Default: the memory's tips."`
	Tokens bool     `help:"Print the token ids too. Starts the server."`
	Write  string   `placeholder:"DIR" help:"Write the built-in templates to a folder, and show nothing."`
}

// Help is shown by empo2 prompt --help.
func (promptCmd) Help() string {
	return `Shows exactly what the policy sees in a task, without and with tips. It needs no model,
except for --tokens.

Examples:
  empo2 prompt --task 3
  empo2 prompt --set env.name=scienceworld --set prompt.template=recipe --action "look around"
  empo2 prompt --profile demo --tokens
  empo2 prompt --write prompts             then edit one and set prompt.template to its path`
}

func (cmd *promptCmd) Run(ctx context.Context, out *console) error {
	if cmd.Write != "" {
		return writeTemplates(cmd.Write, out)
	}
	c, err := cmd.load()
	if err != nil {
		return err
	}
	texts, err := readPromptTemplate(c)
	if err != nil {
		return err
	}
	log := out.logger(cmd.Verbose)
	family, err := openFamily(ctx, opening{config: c, log: log})
	if err != nil {
		return err
	}
	play, err := cmd.play(ctx, c, family, texts)
	if err = errors.Join(err, family.Close()); err != nil {
		return err
	}
	var template *chat.Template
	if cmd.Tokens {
		r, err := openScratch(ctx, c, out, log)
		if err != nil {
			return err
		}
		defer r.Close()
		if template = r.loop.Driver.ChatTemplate; template == nil {
			out.note("no token ids: the server takes text and tokenizes it itself")
		}
	}
	out.print("task %s of %s, template %s (sha256 %.12s)", play.task.ID, cmd.Split, texts.Name(), texts.SHA256())
	if err := play.print(ctx, out, "without tips", false, template); err != nil {
		return err
	}
	return play.print(ctx, out, fmt.Sprintf("with tips (%s)", play.source), true, template)
}

// writeTemplates writes every built-in template. It replaces no file.
func writeTemplates(dir string, out *console) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return &config.Error{Place: "--write " + dir, Msg: "the folder cannot be made: " + err.Error(),
			Hint: "choose another folder"}
	}
	for _, name := range prompt.Names() {
		text, err := prompt.Source(name)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, name+".tmpl")
		if fileExists(path) {
			return &config.Error{Place: "--write " + dir, Msg: path + " exists already",
				Hint: "choose another folder, or remove the file"}
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		out.print("%s", path)
	}
	return nil
}

// played is the conversation of an episode, with the tips in it.
type played struct {
	task     envs.Task
	tips     []prompt.Tip
	source   string // where the tips come from
	messages []chat.Message
}

// play plays the task's first turns with the actions of --action.
func (cmd *promptCmd) play(
	ctx context.Context, c config.Config, family envs.Family, texts prompt.Template,
) (*played, error) {
	task, err := cmd.task(family)
	if err != nil {
		return nil, err
	}
	episode, err := family.Open(ctx, task)
	if err != nil {
		return nil, err
	}
	defer episode.Close()
	o, err := episode.Reset(ctx)
	if err != nil {
		return nil, err
	}
	p := &played{task: task, source: "given by --tip"}
	for i, text := range cmd.Tip {
		p.tips = append(p.tips, prompt.Tip{ID: int64(i + 1), Text: text})
	}
	if len(p.tips) == 0 {
		if err = p.recall(ctx, c, o.State); err != nil {
			return nil, err
		}
	}
	p.messages = append(texts.Opening(task), texts.Turn(o, p.tips))
	for _, written := range cmd.Action {
		step, err := episode.Step(ctx, texts.Action(chat.Answer(written)))
		if err != nil {
			return nil, err
		}
		p.messages = append(p.messages, chat.Message{
			Role: chat.RoleAssistant, Spans: []chat.Span{{Kind: chat.ActionSpan, Text: written}},
		})
		if step.Done() {
			p.messages = append(p.messages, texts.Request(task, step.Observation))
			break
		}
		p.messages = append(p.messages, texts.Turn(step.Observation, nil))
	}
	return p, nil
}

// task finds the task that --task names.
func (cmd *promptCmd) task(family envs.Family) (envs.Task, error) {
	tasks, err := family.Tasks(envs.Split(cmd.Split))
	if err != nil {
		return envs.Task{}, err
	}
	if i := slices.IndexFunc(tasks, func(t envs.Task) bool { return t.ID == cmd.Task }); i >= 0 {
		return tasks[i], nil
	}
	n, err := strconv.Atoi(cmd.Task)
	if err != nil || n < 0 || n >= len(tasks) {
		hint := "the split is empty"
		if len(tasks) > 0 {
			hint = fmt.Sprintf("0 to %d, or an id such as %s", len(tasks)-1, tasks[0].ID)
		}
		return envs.Task{}, &config.Error{Place: "--task " + cmd.Task, Msg: "no such task of " + cmd.Split, Hint: hint}
	}
	return tasks[n], nil
}

// recall fills in the tips that the run's memory has for a state. If there are
// none, it fills in an example.
func (p *played) recall(ctx context.Context, c config.Config, state string) error {
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	if fileExists(filepath.Join(dir, "run.db")) && c.Algorithm.Name != "grpo" {
		known, err := recallFrom(ctx, c, memory.State{Scope: p.task.Scope, Text: state})
		if err != nil && !errors.Is(err, ledger.ErrInUse) {
			return err
		}
		for _, tip := range known.Tips {
			p.tips = append(p.tips, prompt.Tip{ID: tip.ID, Text: tip.Text})
		}
		p.source = "recalled by " + dir
	}
	if len(p.tips) == 0 {
		p.tips = []prompt.Tip{{ID: 1, Text: "(what the policy wrote after an earlier episode)"}}
		p.source = "an example"
	}
	return nil
}

// recallFrom recalls tips from the memory of the run that c names. It uses the
// configuration with which that run was trained.
func recallFrom(ctx context.Context, c config.Config, state memory.State) (known memory.Recollection, err error) {
	stored, err := storedConfig(ctx, c, nil)
	if err != nil {
		return known, err
	}
	err = withMemory(ctx, stored, func(_ *ledger.Ledger, b bank) (err error) {
		known, err = b.Recall(ctx, state)
		return err
	})
	return known, err
}

// print prints the conversation: a heading for each message, its text, and the
// token ids of all messages if template is not nil.
func (p *played) print(ctx context.Context, out *console, what string, tips bool, template *chat.Template) error {
	messages := make([]chat.Message, len(p.messages))
	for i, m := range p.messages {
		messages[i] = m
		if !tips {
			messages[i] = m.WithoutTips()
		}
	}
	out.print("\n=== %s", what)
	for _, m := range messages {
		out.print("--- %s\n%s", m.Role, m.Text())
	}
	if template == nil {
		return nil
	}
	ids, err := template.Extend(ctx, nil, messages...)
	if err != nil {
		return err
	}
	out.print("--- %d tokens, up to where the policy writes\n%d", len(ids), ids)
	return nil
}

// openScratch starts server and trainer in a temporary folder. Closing the run
// removes the folder.
func openScratch(ctx context.Context, c config.Config, out *console, log zerolog.Logger) (*run, error) {
	t, err := setUp(ctx, c, out, log)
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp("", "empo2-prompt-")
	if err != nil {
		return nil, err
	}
	c.Run.Dir, c.Run.Name = root, "scratch"
	r, err := openRun(ctx, c, t, log)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(root))
	}
	r.closes = append([]func() error{func() error { return os.RemoveAll(root) }}, r.closes...)
	return r, nil
}
