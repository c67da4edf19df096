"""An environment on the SDK's own server, for live_test.go: server.py PORT."""

import sys

from pydantic import BaseModel

try:
    from ors import Environment, ImageBlock, Server, Split, TextBlock, ToolOutput, tool
except ImportError:  # OpenReward's own package has the same
    from openreward.environments import (
        Environment,
        ImageBlock,
        Server,
        Split,
        TextBlock,
        ToolOutput,
        tool,
    )


class Answer(BaseModel):
    answer: str


class Sums(Environment):
    """Adds two numbers; a task is right once its sum is given."""

    @classmethod
    def list_splits(cls):
        return [Split(name="train", type="train"), "hard", Split(name="test", type="test")]

    @classmethod
    def list_tasks(cls, split):
        return [{"a": i + 1, "b": 2 * i} for i in range(2 if split == "test" else 6)]

    def get_prompt(self):
        question = f"What is {self.task_spec['a']} + {self.task_spec['b']}?"
        return [TextBlock(text=question), ImageBlock(data="aGk=", mimeType="image/png")]

    @tool
    def answer(self, given: Answer) -> ToolOutput:
        """Give the sum."""
        right = given.answer.strip() == str(self.task_spec["a"] + self.task_spec["b"])
        # Long enough to be sent in several pieces.
        text = "Right. " + "é " * 5000 if right else "Wrong: " + given.answer[:50]
        return ToolOutput(
            blocks=[TextBlock(text=text)], reward=1.0 if right else None, finished=right
        )

    @tool
    def crash(self) -> ToolOutput:
        """Fail."""
        raise RuntimeError("no such\nthing")


Server([Sums]).run(host="127.0.0.1", port=int(sys.argv[1]))
