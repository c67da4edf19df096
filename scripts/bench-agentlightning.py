"""The workload of BenchmarkStore on agent-lightning's store, as a line of a Go benchmark.

    $(scripts/setup-agentlightning) scripts/bench-agentlightning.py --rollouts 256 --runners 8

Runners in processes of their own send spans over HTTP to a store in memory, which is how
agent-lightning runs by default. The first rollouts, one for each runner, are not counted:
they include the start. Processor time is that of all processes.
"""

import argparse
import asyncio
import os
import random
import string
import time

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # litellm would ask the network for prices

import agentlightning as agl
import psutil
from agentlightning.utils.otel import get_tracer

LETTERS = string.ascii_letters + string.digits
MAX_ROUNDS = 6


def attributes(rng: random.Random) -> dict[str, str]:
    """About 30 random strings, 5.4 KB on average."""
    return {
        "".join(rng.choices(LETTERS, k=rng.randint(3, 42))): "".join(rng.choices(LETTERS, k=rng.randint(5, 300)))
        for _ in range(rng.randint(6, 54))
    }


TEXTS = [attributes(random.Random(i)) for i in range(512)]  # drawn beforehand, as in BenchmarkStore


def make_agent(sleep: float):
    """An agent that makes spans and calls nothing."""

    async def work(name: str) -> None:
        with get_tracer().start_as_current_span(name) as span:
            await asyncio.sleep(random.uniform(0, sleep))
            span.set_attributes(random.choice(TEXTS))

    @agl.rollout
    async def agent(task: str, llm: agl.LLM):
        for i in range(random.randint(1, MAX_ROUNDS)):
            with get_tracer().start_as_current_span(f"agent{i}"):
                await work(f"round{i}_1")
                await work(f"round{i}_2")
            if random.random() < 0.5:
                agl.emit_reward(random.random())
        await work("final")
        agl.emit_reward(random.uniform(1, 2))

    return agent


def processor_seconds() -> float:
    """The processor time of this process and of those below it."""
    this = psutil.Process()
    times = [p.cpu_times() for p in [this, *this.children(recursive=True)]]
    return sum(t.user + t.system for t in times)


class Enqueue(agl.Algorithm):
    """Enqueues all rollouts and waits for them."""

    def __init__(self, name: str, rollouts: int, first: int):
        super().__init__()
        self.name, self.rollouts, self.first = name, rollouts, first

    async def batch(self, n: int) -> None:
        """Runs n rollouts to their end."""
        store = self.get_store()
        await store.add_resources({"llm": agl.LLM(endpoint="http://localhost/v1", model="none")})
        ids = [(await store.enqueue_rollout(input=f"task-{i}", mode="train")).rollout_id for i in range(n)]
        while True:
            done = await store.wait_for_rollouts(rollout_ids=ids, timeout=0.0)
            if any(r.status != "succeeded" for r in done):
                raise RuntimeError("a rollout failed")
            if len(done) == n:
                return
            await asyncio.sleep(0.1)

    async def run(self, train_dataset=None, val_dataset=None) -> None:
        """Runs the first rollouts, and then those that are measured."""
        await self.batch(self.first)
        begun, cpu = time.perf_counter(), processor_seconds()
        await self.batch(self.rollouts)
        seconds, cpu = time.perf_counter() - begun, processor_seconds() - cpu
        n = self.rollouts
        print("pkg: github.com/empo2/empo2/orchestrator")
        print(f"BenchmarkStore/{self.name}@agent-lightning-{agl.__version__} \t{n}\t{1e9 * seconds / n:.0f} ns/op"
              f"\t{1e3 * cpu / n:.3f} cpu-ms/rollout\t{n / seconds:.2f} rollouts/s", flush=True)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="no-sleep", help="the benchmark of BenchmarkStore that it is compared with")
    parser.add_argument("--rollouts", type=int, default=256)
    parser.add_argument("--runners", type=int, default=8)
    parser.add_argument("--sleep", type=float, default=0.001, help="the longest sleep in seconds")
    parser.add_argument("--port", type=int, default=4747)
    args = parser.parse_args()
    trainer = agl.Trainer(
        algorithm=Enqueue(args.name, args.rollouts, args.runners), n_runners=args.runners,
        strategy=agl.ClientServerExecutionStrategy(server_port=args.port),
    )
    trainer.fit(make_agent(args.sleep))


if __name__ == "__main__":
    main()
