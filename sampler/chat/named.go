package chat

import "context"

// A form is a template before a model's ids are known. Its texts name control
// tokens as they are written.
type form struct {
	controls []string // must all be known to the model
	end      string
	// joints are what stands between two messages; after the policy's, from
	// behind the end token.
	joints map[joint]string
	trims  map[string]bool
}

// forms are the named templates. Of the white space around a text they keep
// what the model's own template keeps: chatml and mistral all of it, llama3
// and gemma none.
func forms() map[string]form {
	return map[string]form{
		TemplateChatML: chatML(), TemplateLlama3: llama3(), TemplateGemma: gemma(), TemplateMistral: mistral3(),
	}
}

// chatML is the template of Qwen, without the system message that Qwen2.5 puts
// where there is none and without Qwen3's removal of earlier thoughts (both:
// auto).
func chatML() form {
	return form{
		controls: []string{"<|im_start|>", "<|im_end|>"},
		end:      "<|im_end|>",
		joints: map[joint]string{
			{"", RoleSystem}:          "<|im_start|>system\n",
			{"", RoleUser}:            "<|im_start|>user\n",
			{RoleSystem, RoleUser}:    "<|im_end|>\n<|im_start|>user\n",
			{RoleUser, RoleAssistant}: "<|im_end|>\n<|im_start|>assistant\n",
			{RoleAssistant, RoleUser}: "\n<|im_start|>user\n",
		},
	}
}

// llama3 is the template of Meta-Llama-3-Instruct. Llama 3.1 and later write
// dates in front of the system's text: auto.
func llama3() form {
	return form{
		controls: []string{"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
		end:      "<|eot_id|>",
		joints: map[joint]string{
			{"", RoleSystem}:          "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n",
			{"", RoleUser}:            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
			{RoleSystem, RoleUser}:    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
			{RoleUser, RoleAssistant}: "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
			{RoleAssistant, RoleUser}: "<|start_header_id|>user<|end_header_id|>\n\n",
		},
		trims: map[string]bool{RoleSystem: true, RoleUser: true},
	}
}

// gemma is the template of Gemma 2 and 3. There is no system: its text and an
// empty line stand in front of the first user's, as in Gemma 3's template
// (Gemma 2's refuses the role), which trims the user's text only.
func gemma() form {
	return form{
		controls: []string{"<bos>", "<start_of_turn>", "<end_of_turn>"},
		end:      "<end_of_turn>",
		joints: map[joint]string{
			{"", RoleSystem}:          "<bos><start_of_turn>user\n",
			{"", RoleUser}:            "<bos><start_of_turn>user\n",
			{RoleSystem, RoleUser}:    "\n\n",
			{RoleUser, RoleAssistant}: "<end_of_turn>\n<start_of_turn>model\n",
			{RoleAssistant, RoleUser}: "\n<start_of_turn>user\n",
		},
		trims: map[string]bool{RoleUser: true},
	}
}

// mistral3 is the template of Mistral's tokenizers v3 and v3-tekken
// (Mistral-7B-Instruct-v0.3, Mistral-Nemo). The space that v3 writes before a
// text is its sentencepiece tokenizer's doing, which puts one before every
// text that it is given. There is no system: its text and an empty line stand
// in front of the first user's. mistral-common puts them in front of the last
// user's, which moves with every turn; no conversation could only grow.
func mistral3() form {
	return form{
		controls: []string{"<s>", "[INST]", "[/INST]", "</s>"},
		end:      "</s>",
		joints: map[joint]string{
			{"", RoleSystem}:          "<s>[INST]",
			{"", RoleUser}:            "<s>[INST]",
			{RoleSystem, RoleUser}:    "\n\n",
			{RoleUser, RoleAssistant}: "[/INST]",
			{RoleAssistant, RoleUser}: "[INST]",
		},
	}
}

const mistralSystem = "[SYSTEM_PROMPT]"

// mistral7 is the template of tokenizer v7 (Mistral-Large-2411,
// Mistral-Small-3), which has a system role.
func mistral7() form {
	f := mistral3()
	f.controls = append(f.controls, mistralSystem, "[/SYSTEM_PROMPT]")
	f.joints[joint{"", RoleSystem}] = "<s>[SYSTEM_PROMPT]"
	f.joints[joint{RoleSystem, RoleUser}] = "[/SYSTEM_PROMPT][INST]"
	return f
}

// NewChatML is [NewTemplate] of the name "chatml".
func NewChatML(ctx context.Context, tokenizer Tokenizer, control ControlTokens) (*Template, error) {
	return NewTemplate(ctx, TemplateChatML, tokenizer, control, nil)
}
