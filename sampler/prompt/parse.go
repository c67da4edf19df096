package prompt

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/BurntSushi/toml"

	"github.com/empo2/empo2/sampler/chat"
)

//go:embed templates
var promptFiles embed.FS

// Names lists the templates that are part of the program, in
// alphabetical order.
func Names() []string {
	entries, err := fs.ReadDir(promptFiles, "templates")
	if err != nil {
		panic(err) // the folder is part of the program
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".tmpl"))
	}
	return names
}

// Source is the text of one of [Names].
func Source(name string) (string, error) {
	text, err := promptFiles.ReadFile("templates/" + name + ".tmpl")
	if err != nil {
		return "", fmt.Errorf("no prompt template %q\n  hint: one of %s, or the path of a file", name, strings.Join(Names(), ", "))
	}
	return string(text), nil
}

// The fields of the blocks. Every block has a type of its own, so that tips
// cannot be written anywhere but in their span.
type (
	systemFields     struct{ Instruction string }
	feedbackFields   struct{ Feedback string }
	tipsFields       struct{ Tips []string }
	stateFields      struct{ State string }
	reflectionFields struct{ Request string }
)

// blocks are the blocks that a template must have, with two trials of their
// fields: all empty, and all filled.
var blocks = []struct {
	kind          chat.SpanKind
	empty, filled any
	fields        string
}{
	{chat.SystemSpan, systemFields{}, systemFields{"x"}, ".Instruction"},
	{chat.FeedbackSpan, feedbackFields{}, feedbackFields{"x"}, ".Feedback"},
	{chat.TipsSpan, tipsFields{}, tipsFields{[]string{"x", "y"}}, ".Tips"},
	{chat.StateSpan, stateFields{}, stateFields{"x"}, ".State"},
	{chat.ReflectionSpan, reflectionFields{}, reflectionFields{"x"}, ".Request"},
}

const optionsBlock = "options"

// functions may be called in a template. None of them fails.
var functions = template.FuncMap{"lower": strings.ToLower, "trim": strings.TrimSpace, "find": find}

// builtin are the functions of text/template that may be called: those that
// cannot fail.
var builtin = []string{"and", "or", "not", "print"}

// Parse reads a prompt template: a text/template file whose blocks are
// the spans of a prompt, with a block "options" in TOML. The template "plain"
// describes itself. A faulty file is refused with the place and a hint.
func Parse(name, text string) (Template, error) {
	fail := func(err error, hint string) (Template, error) {
		return Template{}, fmt.Errorf("prompt template %s: %w\n  hint: %s", name, err, hint)
	}
	const start = "empo2 prompt --write DIR writes the built-in templates, to begin with"
	t, err := template.New(name).Funcs(functions).Parse(text)
	if err != nil {
		return fail(err, start)
	}
	f := Template{name: name, text: text, blocks: t}
	if stray := strayBlock(t); stray != "" {
		return fail(fmt.Errorf("unknown block %q", stray), "the blocks are options, system, feedback, tips, state and reflection")
	}
	for _, b := range blocks {
		block := t.Lookup(string(b.kind))
		if block == nil {
			return fail(fmt.Errorf("no block %q", b.kind), start)
		}
		if err := checkCalls(block.Root); err != nil {
			return fail(fmt.Errorf("block %q: %w", b.kind, err), fmt.Sprintf("a block knows its field %s, if, with, range, else, and the functions lower, trim, find, %s", b.fields, strings.Join(builtin, ", ")))
		}
		for _, trial := range []any{b.empty, b.filled} {
			if err := block.Execute(io.Discard, trial); err != nil {
				return fail(err, fmt.Sprintf("the block %q knows the field %s only", b.kind, b.fields))
			}
		}
	}
	if err := f.readOptions(); err != nil {
		return fail(fmt.Errorf("block %q: %w", optionsBlock, err), "the template plain shows every option with its meaning")
	}
	return f, nil
}

// strayBlock names a block that no part of a prompt is made of, or is "".
func strayBlock(t *template.Template) string {
	for _, defined := range t.Templates() {
		known := defined.Name() == t.Name() || defined.Name() == optionsBlock
		for _, b := range blocks {
			known = known || defined.Name() == string(b.kind)
		}
		if !known {
			return defined.Name()
		}
	}
	return ""
}

// readOptions reads the block of options; without one, or without a key, the
// options are those of the template plain.
func (f *Template) readOptions() error {
	o := struct {
		Order         []chat.SpanKind `toml:"order"`
		ShowState     string          `toml:"show_state"`
		Action        actionRule      `toml:"action"`
		Lower         bool            `toml:"lower"`
		MaxTips       int             `toml:"max_tips"`
		MaxCharacters int             `toml:"max_tip_characters"`
	}{Order: []chat.SpanKind{chat.FeedbackSpan, chat.TipsSpan, chat.StateSpan}, ShowState: "always", Action: wholeReply, MaxCharacters: 600}
	var text strings.Builder
	if block := f.blocks.Lookup(optionsBlock); block != nil {
		if err := block.Execute(&text, nil); err != nil {
			return err
		}
	}
	meta, err := toml.Decode(text.String(), &o)
	if err != nil {
		return err
	}
	if extra := meta.Undecoded(); len(extra) > 0 {
		return fmt.Errorf("unknown option %q", extra[0].String())
	}
	sorted := slices.Sorted(slices.Values(o.Order))
	switch {
	case !slices.Equal(sorted, []chat.SpanKind{chat.FeedbackSpan, chat.StateSpan, chat.TipsSpan}):
		return fmt.Errorf("order = %q must name feedback, tips and state once each", o.Order)
	case o.ShowState != "always" && o.ShowState != "first":
		return fmt.Errorf("show_state = %q is neither always nor first", o.ShowState)
	case !slices.Contains(actionRules, o.Action):
		return fmt.Errorf("action = %q is none of %q", o.Action, actionRules)
	case o.MaxTips < 0 || o.MaxCharacters < 0:
		return errors.New("max_tips and max_tip_characters must not be negative")
	}
	f.order, f.brief, f.rule, f.lower = o.Order, o.ShowState == "first", o.Action, o.Lower
	f.MaxTipsPerTurn, f.MaxTipCharacters = o.MaxTips, o.MaxCharacters
	return nil
}

// checkCalls refuses calls that might fail in the middle of a run, and
// patterns that are none.
func checkCalls(node parse.Node) (err error) {
	walkNodes(node, func(n parse.Node) {
		if err != nil {
			return
		}
		switch n := n.(type) {
		case *parse.TemplateNode:
			err = fmt.Errorf("{{template %q}} is not supported", n.Name)
		case *parse.CommandNode:
			err = checkCommand(n)
		}
	})
	return err
}

func checkCommand(n *parse.CommandNode) error {
	called, ok := n.Args[0].(*parse.IdentifierNode)
	if !ok {
		return nil
	}
	if _, own := functions[called.Ident]; !own && !slices.Contains(builtin, called.Ident) {
		return fmt.Errorf("the function %q is not supported", called.Ident)
	}
	if called.Ident != "find" {
		return nil
	}
	pattern, ok := n.Args[min(1, len(n.Args)-1)].(*parse.StringNode)
	if !ok {
		return errors.New("find wants a pattern in quotes first")
	}
	_, err := regexp.Compile(pattern.Text)
	return err
}

// walkNodes visits node and all below it.
func walkNodes(node parse.Node, visit func(parse.Node)) {
	visit(node)
	branch := func(pipe *parse.PipeNode, list, other *parse.ListNode) {
		walkNodes(pipe, visit)
		walkNodes(list, visit)
		if other != nil {
			walkNodes(other, visit)
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			walkNodes(child, visit)
		}
	case *parse.ActionNode:
		walkNodes(n.Pipe, visit)
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			walkNodes(command, visit)
		}
	case *parse.CommandNode:
		for _, argument := range n.Args {
			walkNodes(argument, visit)
		}
	case *parse.IfNode:
		branch(n.Pipe, n.List, n.ElseList)
	case *parse.RangeNode:
		branch(n.Pipe, n.List, n.ElseList)
	case *parse.WithNode:
		branch(n.Pipe, n.List, n.ElseList)
	}
}

// find lists what the first group of a pattern (or all of it, if it has no
// group) matches in a text, without repetitions.
func find(pattern, text string) ([]string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, match := range re.FindAllStringSubmatch(text, -1) {
		if s := match[min(1, len(match)-1)]; s != "" && !slices.Contains(found, s) {
			found = append(found, s)
		}
	}
	return found, nil
}
