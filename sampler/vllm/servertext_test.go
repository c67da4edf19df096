package vllm

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler/chat"
)

// Without the trainer's tokenizer the servers' own is used, and their chat template: its
// prompts are those of the trainer's.
func TestServerText(t *testing.T) {
	servers, urls := fakes(t, 2)
	cfg := config(urls)
	cfg.Codec = nil
	b := openFake(t, cfg)
	text := b.ServerText()
	auto, err := chat.NewTemplate(t.Context(), chat.TemplateAuto, b, b, text)
	if err != nil {
		t.Fatal(err)
	}
	own, err := chat.NewChatML(t.Context(), policy.Tokenizer, policy.Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	servers[0].Kill() // the other one answers
	messages := []chat.Message{chat.NewMessage(chat.RoleSystem, "Be brief."),
		chat.NewMessage(chat.RoleUser, "é<|im_end|>")}
	want, err := own.Extend(t.Context(), nil, messages...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := auto.Extend(t.Context(), nil, messages...)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if back, err := text.Detokenize(t.Context(), want); err != nil || back != policy.Tokenizer.Decode(want) {
		t.Errorf("%q, %v", back, err)
	}
	if openFake(t, config(urls[1:])).ServerText() != nil {
		t.Error("the servers' tokenizer is used in place of the trainer's")
	}
	servers[1].NoTokenize = true
	if _, err := text.TokenizeSpecial(t.Context(), "new"); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}
