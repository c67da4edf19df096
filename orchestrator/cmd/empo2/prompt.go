package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

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
	Tokens bool     `help:"Show the tokens too: each id and its text. Starts the server."`
	Write  string   `placeholder:"DIR" help:"Write the built-in templates to a folder, and show nothing."`
	JSON   bool     `help:"Print JSON."`
}

// Help is shown by empo2 prompt --help.
func (promptCmd) Help() string {
	return `Shows exactly what the policy sees in a task, without and with tips. It needs no model,
except for --tokens. That starts the server, and the trainer only if the server has no
tokenizer of its own (vllm, sglang, ollama). empo2 try shows what the policy answers.

Examples:
  empo2 prompt --task 3
  empo2 prompt --set env.name=scienceworld --set prompt.template=recipe --action "look around"
  empo2 prompt --profile demo --tokens
  empo2 prompt --write prompts             then edit one and set prompt.template to its path`
}

func (cmd *promptCmd) Run(ctx context.Context, out *console) (err error) {
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
	var encode encoder
	if cmd.Tokens {
		var p *player
		if p, err = openPlayer(ctx, source{config: c}, 1, log); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.Close()) }()
		if err = p.start(ctx, out); err != nil {
			return err
		}
		encode = encoder{p.driver.ChatTemplate, newPieces(p.server.decoder)}
		if encode.template == nil {
			out.note("no token ids: the server takes text and tokenizes it itself")
		}
	}
	without, err := play.rendered(ctx, false, encode)
	if err != nil {
		return err
	}
	with, err := play.rendered(ctx, true, encode)
	if err != nil {
		return err
	}
	if cmd.JSON {
		out.json("prompt", shownPrompt{play.task.ID, cmd.Split, texts.Name(), texts.SHA256(), without, with, play.source})
		return nil
	}
	out.print("task %s of %s, template %s (sha256 %.12s)", play.task.ID, cmd.Split, texts.Name(), texts.SHA256())
	without.print(out, "without tips")
	with.print(out, fmt.Sprintf("with tips (%s)", play.source))
	return nil
}

// shownPrompt is what prompt --json prints.
type shownPrompt struct {
	Task        string   `json:"task"`
	Split       string   `json:"split"`
	Template    string   `json:"template"`
	SHA256      string   `json:"sha256"`
	WithoutTips rendered `json:"without_tips"`
	WithTips    rendered `json:"with_tips"`
	TipsFrom    string   `json:"tips_from"`
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
	task, err := findTask(family, cmd.Split, cmd.Task)
	if err != nil {
		return nil, err
	}
	episode, err := family.Open(ctx, task)
	if err != nil {
		return nil, hintAtServer(fmt.Errorf("environment: open %s: %w", task.ID, err))
	}
	defer episode.Close()
	o, err := episode.Reset(ctx)
	if err != nil {
		return nil, hintAtServer(fmt.Errorf("environment: reset %s: %w", task.ID, err))
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
			return nil, hintAtServer(fmt.Errorf("environment: step of %s: %w", task.ID, err))
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

// findTask finds the task of a split that the user named by number or id.
func findTask(family envs.Family, split, name string) (envs.Task, error) {
	tasks, err := family.Tasks(envs.Split(split))
	if err != nil {
		return envs.Task{}, err
	}
	if i := slices.IndexFunc(tasks, func(t envs.Task) bool { return t.ID == name }); i >= 0 {
		return tasks[i], nil
	}
	n, err := strconv.Atoi(name)
	if err != nil || n < 0 || n >= len(tasks) {
		hint := "the split is empty"
		if len(tasks) > 0 {
			hint = fmt.Sprintf("0 to %d, or an id such as %s", len(tasks)-1, tasks[0].ID)
		}
		return envs.Task{}, &config.Error{Place: "--task " + name, Msg: "no such task of " + split, Hint: hint}
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

// encoder encodes prompts as the server gets them. The zero value encodes nothing.
type encoder struct {
	template *chat.Template
	pieces   *pieces
}

// rendered is a prompt as text, and as tokens up to where the policy writes.
type rendered struct {
	Messages []plainMessage `json:"messages"`
	Tokens   []token        `json:"tokens,omitempty"`
}

type plainMessage struct {
	Role string `json:"role"`
	Text string `json:"text"`
}

// rendered renders the conversation with or without its tips.
func (p *played) rendered(ctx context.Context, tips bool, encode encoder) (out rendered, err error) {
	messages := make([]chat.Message, len(p.messages))
	for i, m := range p.messages {
		messages[i] = m
		if !tips {
			messages[i] = m.WithoutTips()
		}
		out.Messages = append(out.Messages, plainMessage{m.Role, messages[i].Text()})
	}
	if encode.template == nil {
		return out, nil
	}
	ids, err := encode.template.Extend(ctx, nil, messages...)
	if err == nil {
		out.Tokens, err = encode.pieces.of(ctx, ids)
	}
	return out, err
}

// print prints a heading and the text of each message, and the tokens.
func (r rendered) print(out *console, what string) {
	out.print("\n=== %s", what)
	for _, m := range r.Messages {
		out.print("--- %s\n%s", m.Role, m.Text)
	}
	if len(r.Tokens) > 0 {
		out.print("--- %d tokens, up to where the policy writes", len(r.Tokens))
		out.tokens(r.Tokens)
	}
}
