"""The trainer: it computes log-probs and gradients of the policy for the Go program."""
