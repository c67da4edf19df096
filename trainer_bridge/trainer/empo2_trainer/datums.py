"""Validation of training data: the structs of a request become checked arrays.

The losses of the Tinker protocol have one array, `weights`. It sets both the loss mask (weights
that are not 0) and the importance weights. The loss `empo2` has an array for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from empo2_trainer.losses import OPTIONAL, REQUIRED, Loss, parse
from empo2_trainer.protocol import Datum, LossInput, TensorData, UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Sequence:
    """One datum. All arrays have shape (T,). Index t refers to the prediction of targets[t]."""

    tokens: Ints
    targets: Ints
    loss_mask: Bools  # the positions that are trained
    importance_weights: Floats  # factors of the policy loss, read where loss_mask is set
    logprobs: Floats  # of the behaviour policy
    advantages: Floats
    kl: Floats  # coefficients of KL(π‖π_base)
    entropy: Floats  # coefficients of the entropy bonus
    floor_mask: Bools  # the positions where the log-prob floor applies

    @property
    def needs_gradient(self) -> Bools:
        """Positions (T,) that contribute to the loss or its metrics."""
        return self.loss_mask | (self.kl != 0) | (self.entropy != 0)


_ONE, _OFF = np.ones(1, np.float32), np.zeros(1, np.bool_)
# A row of one token that trains nothing.
IDLE = Sequence(
    tokens=np.zeros(1, np.int64),
    targets=np.zeros(1, np.int64),
    loss_mask=_OFF,
    importance_weights=_ONE,
    logprobs=_ONE - 1,
    advantages=_ONE - 1,
    kl=_ONE - 1,
    entropy=_ONE - 1,
    floor_mask=_OFF,
)


def check(batch: LossInput, vocab: int, context: int) -> tuple[list[Sequence], Loss]:
    """Check a request against the model. A UserError names the datum and the defect."""
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

    def floats(name: str, default: float) -> Floats:
        if name in inputs:
            return _floats(name, inputs[name], len(tokens))
        return np.full(len(tokens), default, np.float32)

    advantages = floats("advantages", 1.0)
    return Sequence(
        tokens=tokens,
        targets=targets.astype(np.int64),
        loss_mask=_loss_mask(datum, advantages),
        importance_weights=_importance_weights(floats, "weights" in inputs),
        logprobs=floats("logprobs", 0.0),
        advantages=advantages,
        kl=floats("kl", 0.0),
        entropy=floats("entropy", 0.0),
        floor_mask=_binary("floor_mask", floats("floor_mask", 1.0)),
    )


def _loss_mask(datum: Datum, advantages: Floats) -> Bools:
    """loss_mask, or weights that are not 0, or, as in the SDK, advantages that are not 0."""
    for name in ("loss_mask", "weights"):
        if name in datum.loss_fn_inputs:
            values = _floats(name, datum.loss_fn_inputs[name], len(advantages))
            return _binary(name, values) if name == "loss_mask" else values != 0
    return advantages != 0


def _importance_weights(floats: Callable[[str, float], Floats], tinker: bool) -> Floats:
    """importance_weights, which cannot be negative, or Tinker's weights, which can."""
    if tinker:
        return floats("weights", 1.0)
    values = floats("importance_weights", 1.0)
    if (values < 0).any():
        at = int(np.argmax(values < 0))
        raise UserError(
            f"importance_weights of position {at} is {values[at]}: must not be negative"
        )
    return values


def _binary(name: str, values: Floats) -> Bools:
    odd = (values != 0) & (values != 1)
    if odd.any():
        at = int(np.argmax(odd))
        raise UserError(f"{name} of position {at} is {values[at]}: must be 0 or 1")
    return values != 0


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
