package exchange

import (
	"context"
	"encoding/json"
	"strings"
)

// Recognize returns a hint about a server with another protocol than expected: the
// protocol that it seems to speak.
func (c *Client) Recognize(ctx context.Context) string {
	if answer, err := c.Try(ctx, Request{Path: "/health"}); err == nil {
		var health struct{ Status string }
		if json.Unmarshal(answer, &health) == nil && health.Status == "healthy" {
			return `the server looks like one of OpenEnv: set env.name = "openenv"`
		}
	}
	if answer, err := c.Try(ctx, Request{Path: "/list_environments"}); err == nil {
		var names []string
		if json.Unmarshal(answer, &names) == nil && len(names) > 0 {
			return `the server looks like one of ORS: set env.name = "ors"`
		}
	}
	answer, err := c.Try(ctx, Request{Path: "/"})
	if err != nil {
		return "is " + c.URL() + " the environment's server, and the path right?"
	}
	var description struct{ Protocol string }
	var greeting string
	switch {
	case json.Unmarshal(answer, &description) == nil && description.Protocol == "empo2-env":
		return `the server speaks the plain HTTP schema: set env.name = "remote"`
	case json.Unmarshal(answer, &greeting) != nil:
	case greeting == "ok" || strings.HasPrefix(greeting, "This is environment "):
		return `the server looks like one of AgentGym: set env.name = "agentgym" and its dialect`
	}
	return "is " + c.URL() + " the environment's server, and the path right?"
}
