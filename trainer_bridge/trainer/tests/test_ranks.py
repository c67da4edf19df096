"""Two ranks on the CPU (gloo) against one process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import computed, make_trainer, wire_batch
from tests.group import carry_out
from tests.test_process import DEADLINE, PACKAGE_ROOT

ADAM = {"learning_rate": 1e-3, "beta2": 0.99, "eps": 1e-8}
TOLERANCE = 1e-5


def group(model: Path, root: Path, parallel: str, operations: list[Any]) -> list[Any]:
    """What operations return, carried out by a trainer of two ranks (see group.py)."""
    flags = ["--model", str(model), "--root", str(root), "--device", "cpu", "--threads", "1"]
    flags += ["--formats", "peft", "--gpus", "2", "--parallel", parallel]
    done = subprocess.run(
        [sys.executable, "-m", "tests.group", *flags],
        cwd=PACKAGE_ROOT,
        input=json.dumps(operations).encode(),
        capture_output=True,
        timeout=5 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    kept = done.stderr.decode().count("of 2 layers this rank keeps 50 %")
    assert kept == (2 if parallel == "fsdp2" else 0)
    found: list[Any] = json.loads(done.stdout)
    return found


def alone(model: Path, root: Path, operations: list[Any]) -> list[Any]:
    """The same by this process."""
    trainer = make_trainer(model, root, formats=("peft",))
    return [json.loads(json.dumps(carry_out(trainer, operation))) for operation in operations]


def update(*batches: dict[str, Any]) -> list[Any]:
    """One update by several batches."""
    return [["forward_backward", batch] for batch in batches] + [["optim_step", ADAM]]


def infinite() -> dict[str, Any]:
    """A batch with one row whose loss is not finite."""
    batch = wire_batch(9, "importance_sampling")
    inputs = batch["data"][3]["loss_fn_inputs"]
    inputs["logprobs"]["data"] = [-1e30] * 30
    inputs["advantages"]["data"] = [1e30] * 30
    return batch


def rows(batch: dict[str, Any], *chosen: int) -> dict[str, Any]:
    return batch | {"data": [batch["data"][i] for i in chosen]}


def first() -> list[Any]:
    """Updates by every loss, with five rows, one row and three."""
    k3 = {"kl_estimator": 1.0, "logprob_floor": -6.0}
    return [
        *update(wire_batch(1, kl=0.3, entropy=0.1)),
        *update(wire_batch(2, kl=0.3, config=k3), wire_batch(3, "ppo")),
        *update(rows(wire_batch(4, kl=0.1), 3)),  # one row for two ranks
        *update(wire_batch(5, "cross_entropy"), wire_batch(6, "importance_sampling")),
        *update(wire_batch(7, config={"surrogate": 1.0}), rows(wire_batch(8, kl=0.2), 0, 1, 2)),
        *update(infinite()),  # refused on one rank, and so on both
        *update(wire_batch(10, kl=0.3)),
        ["save", "first", False],
        ["export", "v000001", False],
        ["forward", wire_batch(11)],
    ]


def then(name: str, after: str) -> list[Any]:
    """Continue from a checkpoint, beside a second adapter: an update, and a checkpoint of that
    name."""
    load = ["load", f"tinker://earlier/weights/{after}", True]
    return [
        ["create", f"beside {name}"],
        load,
        ["forward", wire_batch(11)],
        *update(wire_batch(12, kl=0.3)),
        ["save", name, False],
    ]


def tensors(root: Path, *files: str) -> dict[str, Any]:
    """Tensors of checkpoints and exports below a root."""
    return {f"{f}/{k}": v for f in files for k, v in load_file(root / f"{f}.safetensors").items()}


def equal(want: dict[str, Any], got: dict[str, Any]) -> None:
    assert want.keys() == got.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def same(want: list[Any], got: list[Any]) -> None:
    """Answers to the same operations are equal: errors, statistics and log-probs."""
    for a, b in zip(want, got, strict=True):
        assert a.get("error") == b.get("error")
        assert a.get("type") == b.get("type")
        known, found = (computed(x.get("metrics", {})) for x in (a, b))
        assert found == pytest.approx(known, rel=1e-4, abs=TOLERANCE)
        for x, y in zip(a.get("loss_fn_outputs", []), b.get("loss_fn_outputs", []), strict=True):
            np.testing.assert_allclose(y["logprobs"]["data"], x["logprobs"]["data"], atol=1e-5)


@pytest.mark.parametrize("parallel", ["data", "fsdp2"])
def test_two_ranks_update_as_one_process(model_dir: Path, tmp_path: Path, parallel: str) -> None:
    """And a checkpoint does not know how many wrote it: one process continues from the one of two
    ranks, and two ranks from its checkpoint."""
    model, one, two = model_dir, tmp_path / "one", tmp_path / "two"
    want = alone(model, one, [*first(), *then("second", "first"), *then("third", "second")])
    assert want[0]["metrics"]["masked:sum"] > 0
    assert want[2]["metrics"]["kl_base:sum"] > 0
    assert sum("error" in answer for answer in want) == 2  # the pass and its update

    got = group(model, two, parallel, first())
    got += alone(model, two, then("second", "first"))
    got += group(model, two, parallel, then("third", "second"))
    same(want, got)
    names = [f"checkpoints/{c}" for c in ("first", "second", "third")]
    files = [f"{n}/{f}" for n in names for f in ("adapter", "optimizer")]
    files.append("adapters/v000001/adapter_model")
    equal(tensors(one, *files), tensors(two, *files))
    trained = [v for n, v in tensors(one, f"{names[2]}/adapter").items() if "lora_B" in n]
    assert min(abs(v).max() for v in trained) > 100 * TOLERANCE  # what is compared is not 0
    assert json.loads((two / names[2] / "meta.json").read_text())["optimizer_steps"] == 8
