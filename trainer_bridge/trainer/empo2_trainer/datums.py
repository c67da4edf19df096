"""Validation of training data where it enters: from wire structs to checked arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empo2_trainer.losses import OPTIONAL, REQUIRED, Loss, parse
from empo2_trainer.protocol import Datum, LossInput, TensorData, UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sequence:
    """One datum. All arrays have shape (T,) and speak of the prediction at that position."""

    tokens: Ints
    targets: Ints
    weights: Floats
    logprobs: Floats
    advantages: Floats
    kl: Floats

    @property
    def needs_gradient(self) -> NDArray[np.bool_]:
        """Positions (T,) that contribute to the loss or its metrics."""
        return (self.weights != 0) | (self.kl != 0)


def check(batch: LossInput, vocab: int, context: int) -> tuple[list[Sequence], Loss]:
    """Check a request's data against the model; a UserError names the datum and the defect."""
    loss = parse(batch.loss_fn, batch.loss_fn_config)
    if not batch.data:
        raise UserError("data is empty: send at least one datum")
    sequences = []
    for i, datum in enumerate(batch.data):
        try:
            sequences.append(_sequence(datum, loss.name, vocab, context))
        except UserError as e:
            raise UserError(f"datum {i}: {e}") from None
    return sequences, loss


def _sequence(datum: Datum, loss_fn: str, vocab: int, context: int) -> Sequence:
    tokens = _tokens(datum)
    if len(tokens) == 0:
        raise UserError("model_input has no tokens")
    if len(tokens) > context:
        raise UserError(f"{len(tokens)} tokens are more than the model's context of {context}")
    _check_inputs(datum, loss_fn)
    inputs = datum.loss_fn_inputs
    targets = _floats("target_tokens", inputs["target_tokens"], len(tokens), np.float64)
    if not np.array_equal(targets, np.floor(targets)):
        raise UserError("target_tokens must be integers")
    for name, ids in (("model_input", tokens), ("target_tokens", targets)):
        if ids.min() < 0 or ids.max() >= vocab:
            bad = ids[(ids < 0) | (ids >= vocab)][0]
            raise UserError(f"{name} has id {int(bad)} outside the vocabulary of {vocab}")
    optional = {
        name: _floats(name, inputs[name], len(tokens)) if name in inputs else None
        for name in ("weights", "logprobs", "advantages", "kl")
    }
    one, zero = np.ones(len(tokens), np.float32), np.zeros(len(tokens), np.float32)
    advantages = one if loss_fn == "cross_entropy" else optional["advantages"]
    weights = optional["weights"]
    if weights is None and advantages is not None:  # the SDK masks by advantage 0
        weights = (advantages != 0).astype(np.float32)
    return Sequence(
        tokens=tokens,
        targets=targets.astype(np.int64),
        weights=_or(weights, one),
        logprobs=_or(optional["logprobs"], zero),
        advantages=_or(advantages, zero),
        kl=_or(optional["kl"], zero),
    )


def _or(values: Floats | None, default: Floats) -> Floats:
    return default if values is None else values


def _tokens(datum: Datum) -> Ints:
    runs = []
    for chunk in datum.model_input.chunks:
        if chunk.type != "encoded_text":
            raise UserError(f"chunk of type {chunk.type!r}: only encoded_text is supported")
        runs += chunk.tokens
    try:
        return np.array(runs, dtype=np.int64)
    except OverflowError:
        raise UserError("model_input has an id outside the vocabulary") from None


def _check_inputs(datum: Datum, loss_fn: str) -> None:
    given = set(datum.loss_fn_inputs)
    missing = [name for name in REQUIRED[loss_fn] if name not in given]
    if missing:
        raise UserError(f"loss_fn {loss_fn} needs loss_fn_inputs {', '.join(missing)}")
    valid = REQUIRED[loss_fn] + OPTIONAL[loss_fn]
    unknown = sorted(given.difference(valid))
    if unknown:
        raise UserError(
            f"loss_fn {loss_fn} does not read {', '.join(unknown)}: it reads {', '.join(valid)}"
        )


def _floats(name: str, t: TensorData, length: int, dtype: type = np.float32) -> NDArray[Any]:
    if t.sparse_crow_indices is not None or t.sparse_col_indices is not None:
        raise UserError(f"{name} is sparse (CSR): send it dense")
    if t.dtype not in ("float32", "int64"):
        raise UserError(f"{name} has dtype {t.dtype!r}: valid are float32 and int64")
    if t.shape is not None and t.shape != [len(t.data)]:
        raise UserError(f"{name} has shape {t.shape} and {len(t.data)} values: send one dimension")
    if len(t.data) != length:
        raise UserError(f"{name} has {len(t.data)} values for {length} input tokens")
    with np.errstate(over="ignore"):
        values: NDArray[Any] = np.array(t.data, dtype=np.float64).astype(dtype)
    if not np.isfinite(values).all():
        raise UserError(f"{name} has a value that is not finite in float32")
    return values
