package demos

import (
	"fmt"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// Renderer renders episodes as the policy sees them in training.
type Renderer struct {
	Env      string // name of the environment
	Template prompt.Template
	// Keep says which turns show their tips; empty: all.
	Keep rollout.Keep
}

// withTips returns the lesson with its tips: one demonstration, or one for each
// turn if prompts show only the newest tips. It asks for no tip at the end.
func (r Renderer) withTips(l envs.Lesson) ([]Demonstration, error) {
	d := r.begin(l)
	d.Source.Tips = true
	if r.Keep != rollout.KeepLatest {
		err := r.addTurns(&d, l.Turns, true)
		return []Demonstration{d}, err
	}
	var all []Demonstration
	for i := range l.Turns {
		d := r.begin(l)
		d.Source.Tips = true
		if err := r.addTurns(&d, l.Turns[:i], false); err != nil {
			return nil, err
		}
		d.untrain()
		if err := r.addTurns(&d, l.Turns[i:i+1], true); err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// withoutTips returns the lesson without its tips. If the lesson has a tip to
// write, the request for it and the tip follow: the memory asks for a tip after
// the tip-free rendering too.
func (r Renderer) withoutTips(l envs.Lesson) (Demonstration, error) {
	d := r.begin(l)
	if err := r.addTurns(&d, l.Turns, false); err != nil {
		return d, err
	}
	if l.Tip == "" {
		return d, nil
	}
	d.Source.Reflection = true
	d.add(r.Template.Request(l.Task, l.Final))
	d.Messages = append(d.Messages, Message{Role: chat.RoleAssistant, Content: l.Tip})
	return d, nil
}

func (r Renderer) begin(l envs.Lesson) Demonstration {
	d := Demonstration{Source: &Source{Env: r.Env, Task: l.Task.ID, Score: l.Score, Success: l.Success}}
	d.add(r.Template.Opening(l.Task)...)
	return d
}

// addTurns appends turns, with their tips or without them.
func (r Renderer) addTurns(d *Demonstration, turns []envs.LessonTurn, tips bool) error {
	for _, turn := range turns {
		reply := r.Template.Reply(turn.Action)
		if read := r.Template.Action(reply); read != turn.Action {
			return fmt.Errorf("%s: the prompt template %s reads the action %q as %q", d.Source.Task, r.Template.Name(),
				turn.Action, read)
		}
		var shown []prompt.Tip
		if tips {
			for i, text := range turn.Tips {
				if most := r.Template.MaxTipsPerTurn; most == 0 || i < most {
					shown = append(shown, prompt.Tip{ID: int64(i + 1), Text: text})
				}
			}
		}
		d.add(r.Template.Turn(turn.Observation, shown))
		d.Messages = append(d.Messages, Message{Role: chat.RoleAssistant, Content: reply})
	}
	return nil
}

func (d *Demonstration) add(messages ...chat.Message) {
	for _, m := range messages {
		d.Messages = append(d.Messages, Message{Role: m.Role, Content: m.Text()})
	}
}

// untrain gives weight 0 to the assistant's messages so far.
func (d *Demonstration) untrain() {
	for i := range d.Messages {
		if d.Messages[i].Role == chat.RoleAssistant {
			d.Messages[i].Weight = new(int)
		}
	}
}

func hasTips(l envs.Lesson) bool {
	for _, turn := range l.Turns {
		if len(turn.Tips) > 0 {
			return true
		}
	}
	return false
}
