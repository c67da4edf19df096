package exchange

import (
	"context"
	"encoding/json"
	"strings"
)

// Recognize returns a hint about a server whose answer does not fit the protocol of the
// environment named asked: the protocol that the server seems to speak, if it is another
// one.
func (c *Client) Recognize(ctx context.Context, asked string) string {
	seems, says := c.protocol(ctx)
	switch seems {
	case "":
		return "is " + c.URL() + " the environment's server, and the path right?"
	case asked:
		return "the server speaks this protocol, but this answer does not fit it: correct the server " +
			"(go doc ./envs/" + asked + " describes the protocol)"
	}
	return says
}

// protocol returns the name of the environment whose protocol the server seems to speak,
// and how to choose it; empty: unknown.
func (c *Client) protocol(ctx context.Context) (name, says string) {
	if answer, err := c.Try(ctx, Request{Path: "/health"}); err == nil {
		var health struct{ Status string }
		if json.Unmarshal(answer, &health) == nil && health.Status == "healthy" {
			return "openenv", `the server looks like one of OpenEnv: set env.name = "openenv"`
		}
	}
	if answer, err := c.Try(ctx, Request{Path: "/list_environments"}); err == nil {
		var names []string
		if json.Unmarshal(answer, &names) == nil && len(names) > 0 {
			return "ors", `the server looks like one of ORS: set env.name = "ors"`
		}
	}
	answer, err := c.Try(ctx, Request{Path: "/"})
	if err != nil {
		return "", ""
	}
	var description struct{ Protocol string }
	var greeting string
	switch {
	case json.Unmarshal(answer, &description) == nil && description.Protocol == "empo2-env":
		return "remote", `the server speaks the plain HTTP schema: set env.name = "remote"`
	case json.Unmarshal(answer, &greeting) != nil:
	case greeting == "ok" || strings.HasPrefix(greeting, "This is environment "):
		return "agentgym", `the server looks like one of AgentGym: set env.name = "agentgym" and its dialect`
	}
	return "", ""
}
