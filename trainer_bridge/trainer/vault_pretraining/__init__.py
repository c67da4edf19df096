"""Pre-training of the demonstration's policy, a tiny model for the environment `vault`.

The trainer does not import this package. The Go binary contains `weights/`, not the code.
"""
