package chat

import "context"

// A namedTemplate is a template as text, before the ids of the model's control tokens are known.
type namedTemplate struct {
	controls []string // control tokens; the model must have all of them
	end      string   // the control token that ends the policy's message
	// separators are the texts between two messages. The separator after the policy's message does not contain its end
	// token.
	separators   map[boundary]string
	trimmedRoles map[string]bool // roles whose texts lose their surrounding white space
}

// namedTemplates returns the templates by name. Each treats white space around a text as the model's own template does:
// chatml and mistral keep it, llama3 and gemma trim it.
func namedTemplates() map[string]namedTemplate {
	return map[string]namedTemplate{
		TemplateChatML: chatML(), TemplateLlama3: llama3(), TemplateGemma: gemma(), TemplateMistral: mistral3(),
	}
}

// chatML is the template of Qwen, without the default system message of Qwen2.5 and without Qwen3's removal of earlier
// thoughts. Use "auto" for both.
func chatML() namedTemplate {
	return namedTemplate{
		controls: []string{"<|im_start|>", "<|im_end|>"},
		end:      "<|im_end|>",
		separators: map[boundary]string{
			{"", RoleSystem}:          "<|im_start|>system\n",
			{"", RoleUser}:            "<|im_start|>user\n",
			{RoleSystem, RoleUser}:    "<|im_end|>\n<|im_start|>user\n",
			{RoleUser, RoleAssistant}: "<|im_end|>\n<|im_start|>assistant\n",
			{RoleAssistant, RoleUser}: "\n<|im_start|>user\n",
		},
	}
}

// llama3 is the template of Meta-Llama-3-Instruct. Llama 3.1 and later write dates before the system message. Use
// "auto" for them.
func llama3() namedTemplate {
	return namedTemplate{
		controls: []string{"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
		end:      "<|eot_id|>",
		separators: map[boundary]string{
			{"", RoleSystem}:          "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n",
			{"", RoleUser}:            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
			{RoleSystem, RoleUser}:    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
			{RoleUser, RoleAssistant}: "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
			{RoleAssistant, RoleUser}: "<|start_header_id|>user<|end_header_id|>\n\n",
		},
		trimmedRoles: map[string]bool{RoleSystem: true, RoleUser: true},
	}
}

// gemma is the template of Gemma 2 and 3. They have no system role: the system's text and an empty line precede the
// first user's text, as in Gemma 3's template, which trims only the user's text. Gemma 2's own template refuses the
// role.
func gemma() namedTemplate {
	return namedTemplate{
		controls: []string{"<bos>", "<start_of_turn>", "<end_of_turn>"},
		end:      "<end_of_turn>",
		separators: map[boundary]string{
			{"", RoleSystem}:          "<bos><start_of_turn>user\n",
			{"", RoleUser}:            "<bos><start_of_turn>user\n",
			{RoleSystem, RoleUser}:    "\n\n",
			{RoleUser, RoleAssistant}: "<end_of_turn>\n<start_of_turn>model\n",
			{RoleAssistant, RoleUser}: "\n<start_of_turn>user\n",
		},
		trimmedRoles: map[string]bool{RoleUser: true},
	}
}

// mistral3 is the template of Mistral's tokenizers v3 and v3-tekken (Mistral-7B-Instruct-v0.3, Mistral-Nemo). The
// sentencepiece tokenizer of v3 itself adds a space before every text. There is no system role: the system's text and
// an empty line precede the first user's text. mistral-common puts them before the last user's text instead. That
// position moves with every turn, so prompts would not only grow.
func mistral3() namedTemplate {
	return namedTemplate{
		controls: []string{"<s>", "[INST]", "[/INST]", "</s>"},
		end:      "</s>",
		separators: map[boundary]string{
			{"", RoleSystem}:          "<s>[INST]",
			{"", RoleUser}:            "<s>[INST]",
			{RoleSystem, RoleUser}:    "\n\n",
			{RoleUser, RoleAssistant}: "[/INST]",
			{RoleAssistant, RoleUser}: "[INST]",
		},
	}
}

const mistralSystem = "[SYSTEM_PROMPT]"

// mistral7 is the template of tokenizer v7 (Mistral-Large-2411, Mistral-Small-3). It has a system role.
func mistral7() namedTemplate {
	f := mistral3()
	f.controls = append(f.controls, mistralSystem, "[/SYSTEM_PROMPT]")
	f.separators[boundary{"", RoleSystem}] = "<s>[SYSTEM_PROMPT]"
	f.separators[boundary{RoleSystem, RoleUser}] = "[/SYSTEM_PROMPT][INST]"
	return f
}

// NewChatML returns the template "chatml".
func NewChatML(ctx context.Context, tokenizer Tokenizer, control ControlTokens) (*Template, error) {
	return NewTemplate(ctx, TemplateChatML, tokenizer, control, nil)
}
