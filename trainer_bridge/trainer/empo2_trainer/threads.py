"""How many threads torch uses on a CPU if the operator does not say.

On cores that are busy with other work several threads are slower than one, since each product
waits for the last of them. So a long pass begins with some small products, measured with one thread
and with all. Results with another number of threads differ in the last bits.
"""

import time
from collections.abc import Callable

import torch

SIZE = 768  # of the measured product of two matrices
ROUNDS = 5
LONG = 2e11  # multiply-adds of a pass from which the measurement costs less than a hundredth
GAIN = 1.1  # several threads must be this much faster: they take the cores from the server


class Threads:
    """The choice between one thread and most threads."""

    def __init__(self, most: int, measure: Callable[[int], float] | None = None) -> None:
        self.most = most
        self._measure = measure or _seconds

    def choose(self, work: float) -> None:
        """Set torch's threads for a pass of so many multiply-adds."""
        if self.most == 1 or work < LONG:
            return
        times: dict[int, list[float]] = {1: [], self.most: []}
        for _ in range(ROUNDS):
            for count, found in times.items():
                found.append(self._measure(count))
        one, all_ = (sorted(found)[ROUNDS // 2] for found in times.values())
        torch.set_num_threads(self.most if one > GAIN * all_ else 1)


def _seconds(count: int) -> float:
    """Time of a product with so many threads."""
    torch.set_num_threads(count)
    a = torch.ones(SIZE, SIZE)
    started = time.perf_counter()
    torch.mm(a, a)
    return time.perf_counter() - started
