"""Bounds for a program that comes with a model: its chat template.

A template can loop for hours. Its sandbox bounds one range, but not a range in a range.
"""

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

MAX_CALLS = 5_000_000  # calls, and lines of the template: thousands of times a long conversation
MAX_SECONDS = 10.0  # of this thread's CPU time
TEMPLATE = "<template>"  # the file of a template's frames, as jinja2 names it

T = TypeVar("T")


class TooLong(Exception):
    """The program was stopped."""


def bounded(work: Callable[[], T]) -> T:
    """What work returns. Raises TooLong if it calls too much or takes too long."""
    count, started = 0, time.thread_time()

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        if count > MAX_CALLS or (count % 256 == 0 and time.thread_time() - started > MAX_SECONDS):
            raise TooLong
        return trace if frame.f_code.co_filename == TEMPLATE else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return work()
    finally:
        sys.settrace(before)


def join(limit: int) -> Callable[[Any], str]:
    """A function that joins texts, at most limit characters of them."""

    def joined(parts: Any) -> str:
        kept: list[str] = []
        size = 0
        for part in parts:
            size += len(part)
            if size > limit:
                raise TooLong
            kept.append(part)
        return "".join(kept)

    return joined
