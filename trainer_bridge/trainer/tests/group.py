"""A trainer with several ranks that carries out a list of operations without HTTP.

    python -m tests.group FLAGS… < operations.json

The operations are lists: a method of Trainer, and its arguments with a batch as it travels. The
model is called m. It writes one JSON list with what each returned; an error is {"error": text}.
"""

import json
import os
import sys
from typing import Any

from empo2_trainer.__main__ import parser
from empo2_trainer.process import _load, configure_logging, take_stdout
from empo2_trainer.protocol import AdamParams, UserError
from tests.conftest import SPEC, checked


def carry_out(trainer: Any, operation: list[Any]) -> Any:
    name, *args = operation
    try:
        if name in ("forward", "forward_backward"):
            return trainer.run("m", *checked(args[0]), backward=name == "forward_backward")
        if name == "optim_step":
            return trainer.optim_step("m", AdamParams(**args[0]))
        if name == "create":
            return trainer.create(args[0], SPEC)
        return getattr(trainer, name)("m", *args)
    except UserError as e:
        return {"error": str(e), **e.details()}


def main() -> None:
    out = take_stdout()
    configure_logging()
    trainer, followers = _load(parser().parse_args(["serve", *sys.argv[1:]]))
    trainer.create("m", SPEC)
    found = [carry_out(trainer, operation) for operation in json.load(sys.stdin)]
    os.write(out, json.dumps(found).encode())
    followers.stop()
    os._exit(0)  # as the server does


if __name__ == "__main__":
    main()
