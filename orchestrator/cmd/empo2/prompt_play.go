package main

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// played is the conversation of an episode, with the tips in it.
type played struct {
	task     envs.Task
	texts    prompt.Template
	source   string // where the tips come from; empty: there are none
	messages []chat.Message
}

// play plays the task's first turns as a run does, with the actions of --action as the
// policy's replies.
func (cmd *promptCmd) play(ctx context.Context, p *player, texts prompt.Template) (*played, error) {
	task, err := findTask(p.family, cmd.Split, cmd.Task)
	if err != nil {
		return nil, err
	}
	out := &played{task: task, texts: texts}
	spec, given := p.spec(task, p.config.Run.Seed), &givenReplies{texts: cmd.Action}
	if spec.Recall, err = cmd.recall(ctx, p, out); err != nil {
		return nil, err
	}
	spec.MaxTurns, spec.MaxTokens = 0, math.MaxInt32
	spec.Watch = func(before []rollout.Turn, next rollout.Turn, _ string) {
		if n := len(before); n > 0 {
			out.reply(cmd.Action[n-1])
		}
		out.messages = append(out.messages, next.Prompt...)
	}
	driver := rollout.Driver{Backend: given, Family: p.family, PromptTemplate: texts, Log: p.log}
	switch t := driver.Run(ctx, spec); {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case t.Failed() && !given.ended:
		return nil, hintAtServer(fmt.Errorf("task %s: %s", task.ID, t.Err))
	case !given.ended: // the episode did
		out.reply(cmd.Action[len(t.Turns)-1])
		out.messages = append(out.messages, texts.Request(task, t.Final))
	}
	return out, nil
}

// reply adds a reply of the policy.
func (p *played) reply(text string) {
	p.messages = append(p.messages, chat.Message{
		Role: chat.RoleAssistant, Spans: []chat.Span{{Kind: chat.ActionSpan, Text: text}},
	})
}

// recall returns what shows the tips: those of --tips, or else of the run's memory. If it
// has none for the first state, an example is shown.
func (cmd *promptCmd) recall(ctx context.Context, p *player, out *played) (rollout.RecallFunc, error) {
	example := fixedTips([]string{"(what the policy wrote after an earlier episode)"})
	switch {
	case len(cmd.Tips) == 1 && cmd.Tips[0] == tipsNone:
		return nil, nil
	case len(cmd.Tips) > 0 && cmd.Tips[0] != tipsAuto:
		out.source = "given by --tips"
		return fixedTips(cmd.Tips), nil
	case len(cmd.Tips) == 0 && p.source.checkMemory() != nil:
		out.source = "an example"
		return example, nil
	}
	memory, err := p.openMemory(ctx, p.source)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, q rollout.Query) (rollout.Recalled, error) {
		found, err := memory(ctx, q)
		if err == nil && len(found.Tips) == 0 && len(out.messages) == 0 && len(cmd.Tips) == 0 {
			out.source = "an example; the memory of " + p.run.Dir + " recalls none"
			return example(ctx, q)
		}
		if len(out.messages) == 0 {
			out.source = "recalled by " + p.run.Dir
		}
		return found, err
	}, nil
}

// givenReplies is a backend that replies with given texts.
type givenReplies struct {
	sampler.Backend // nil: only Sample is called
	texts           []string
	next            int
	ended           bool // there is no further text
}

// Sample implements [sampler.Backend].
func (g *givenReplies) Sample(_ context.Context, p sampler.Policy, _ sampler.Request) (sampler.Completion, error) {
	if g.next == len(g.texts) {
		g.ended = true
		return sampler.Completion{}, errors.New("there is no further --action")
	}
	text := g.texts[g.next]
	g.next++
	return sampler.Completion{Text: text, Finish: sampler.FinishStop, Policy: p}, nil
}
