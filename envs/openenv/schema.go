package openenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/template"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// readSchema reads the JSON schema of the server's actions.
func readSchema(ctx context.Context, c *exchange.Client) (template.Schema, error) {
	raw, err := c.Do(ctx, exchange.Request{Path: "/schema", Prompt: true})
	var f *jsonhttp.Error
	switch {
	case errors.As(err, &f) && f.Kind == jsonhttp.Unreached:
		return template.Schema{}, fmt.Errorf("%w\n  hint: start the environment's server, or correct the url", err)
	case errors.As(err, &f) && (f.Kind == jsonhttp.Refused || f.Kind == jsonhttp.Malformed):
		return template.Schema{}, fmt.Errorf("%w\n  hint: %s", err, c.Recognize(ctx, "openenv"))
	case err != nil:
		return template.Schema{}, err
	}
	var answer struct{ Action *template.Schema }
	if json.Unmarshal(raw, &answer) != nil || answer.Action == nil {
		return template.Schema{}, fmt.Errorf("GET /schema lacks the schema of an action\n  hint: %s",
			c.Recognize(ctx, "openenv"))
	}
	answer.Action.SetOptional("metadata") // every action has this optional field
	return *answer.Action, nil
}
