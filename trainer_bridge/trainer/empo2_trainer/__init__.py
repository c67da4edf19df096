"""The trainer behind the bridge: it scores and updates the policy for the Go program."""
