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
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

type promptCmd struct {
	common
	Target string   `arg:"" name:"run" optional:"" placeholder:"RUN[@VERSION]" help:"Run with settings and tips."`
	Task   string   `default:"0" placeholder:"N|ID" help:"Number of the task in the split, or its id."`
	Split  string   `default:"train" enum:"train,eval,test" help:"Tasks to choose from: train, eval or test."`
	Action []string `sep:"none" placeholder:"TEXT" help:"Reply of the policy, to see the next prompt. Repeatable."`
	Tips   []string `sep:"none" aliases:"tip" placeholder:"none|auto|TEXT" help:"Tips to show. Repeatable."`
	Tokens bool     `help:"Show the tokens too: each id and its text. Starts the server."`
	Write  string   `placeholder:"DIR" help:"Write the built-in templates to a folder, and show nothing."`
	JSON   bool     `help:"Print JSON."`
}

// Help is shown by empo2 prompt --help.
func (promptCmd) Help() string {
	return `Shows exactly what the policy sees in a task, without and with tips. It needs no model,
except for --tokens. empo2 try shows what the policy answers.

The tips are those that the memory of RUN recalls in each state, as it is now, for every
version; without RUN or without a memory they are an example. This rule holds for try and
ab too, which show tips only with --tips auto or tips=auto.

With --tokens the server tokenizes: llama-server and vLLM with the model's chat template,
SGLang if sampler.template names one. Otherwise, and with Ollama, the trainer does.

Examples:
  empo2 prompt --task 3
  empo2 prompt vault --task 3              with the tips of the run vault
  empo2 prompt --set env.name=scienceworld --set prompt.template=recipe --action "look around"
  empo2 prompt --profile demo --tokens
  empo2 prompt --write prompts             then edit one and set prompt.template to its path`
}

func (cmd *promptCmd) Run(ctx context.Context, out *console) (err error) {
	if cmd.Write != "" {
		return writeTemplates(cmd.Write, out)
	}
	if err := checkTips(cmd.Tips); err != nil {
		return err
	}
	s, err := openSource(ctx, cmd.common, cmd.Target)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	texts, err := readPromptTemplate(s.config)
	if err != nil {
		return err
	}
	p, err := openPlayer(ctx, s, 1, out.logger(cmd.Verbose))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	play, err := cmd.play(ctx, p, texts)
	if err != nil {
		return err
	}
	var encode encoder
	if cmd.Tokens {
		if encode, err = p.openEncoder(ctx, out); err != nil {
			return err
		}
	}
	return cmd.show(ctx, out, play, encode)
}

// show prints the conversation without and with tips.
func (cmd *promptCmd) show(ctx context.Context, out *console, play *played, encode encoder) error {
	without, err := play.rendered(ctx, false, encode)
	if err != nil {
		return err
	}
	with, err := play.rendered(ctx, true, encode)
	if err != nil {
		return err
	}
	texts := play.texts
	if cmd.JSON {
		out.json("prompt", shownPrompt{play.task.ID, cmd.Split, texts.Name(), texts.SHA256(), without, with, play.source})
		return nil
	}
	out.print("task %s of %s, template %s (sha256 %.12s)", play.task.ID, cmd.Split, texts.Name(), texts.SHA256())
	without.print(out, "without tips")
	if play.source != "" {
		with.print(out, fmt.Sprintf("with tips (%s)", play.source))
	}
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

// encoder encodes prompts as the server gets them. The zero value encodes nothing.
type encoder struct {
	template *chat.Template
	pieces   *pieces
}

// openEncoder starts what tokenizes prompts: the server, and the trainer only if the
// server cannot.
func (p *player) openEncoder(ctx context.Context, out *console) (encoder, error) {
	backend := backends[p.config.Sampler.Backend]
	if trains(p.config) && backend.codec {
		why := backend.noText(p.config)
		if why == "" {
			p.serverText = true
			err := p.start(ctx, out)
			if !errors.Is(err, errors.ErrUnsupported) {
				return p.encoder(), err
			}
			why, p.serverText = err.Error(), false
		}
		out.note("the trainer tokenizes: %s", why)
	}
	err := p.start(ctx, out)
	if err == nil && p.driver.ChatTemplate == nil {
		out.note("no token ids: the server takes text and tokenizes it itself")
	}
	return p.encoder(), err
}

// encoder encodes prompts for the server that was started. Without one it is the zero
// value.
func (p *player) encoder() encoder {
	if p.driver == nil {
		return encoder{}
	}
	return encoder{p.driver.ChatTemplate, newPieces(p.server.decoder)}
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
