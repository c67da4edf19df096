package ollama

import (
	"fmt"

	"github.com/ollama/ollama/api"
)

// think returns the value for thinking in TemplateArgs; nil: the model's default.
func (c Config) think() *api.ThinkValue {
	for _, value := range c.TemplateArgs { // at most one, see thinkError
		return &api.ThinkValue{Value: value}
	}
	return nil
}

// thinkError refuses arguments that Ollama does not pass to a template.
func (c Config) thinkError() error {
	const hint = "\n  hint: sampler.template_args may hold one of think and enable_thinking for Ollama"
	if len(c.TemplateArgs) > 1 {
		return fmt.Errorf("%d arguments of the chat template%s", len(c.TemplateArgs), hint)
	}
	for name, value := range c.TemplateArgs {
		_, isBool := value.(bool)
		think := api.ThinkValue{Value: value}
		if name != "think" && name != "enable_thinking" || name == "enable_thinking" && !isBool || !think.IsValid() {
			return fmt.Errorf("argument %s = %v of the chat template%s", name, value, hint)
		}
	}
	return nil
}
