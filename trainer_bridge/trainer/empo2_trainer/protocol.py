"""The requests of Tinker's REST protocol that the Go program and the SDK use.

Unknown fields are ignored, since the SDK sends more than a trainer needs. Defaults are the SDK's.
"""

from typing import Any

import msgspec
from msgspec import Struct, field


class UserError(ValueError):
    """The request is invalid: reported with category `user`. A retry never helps."""

    def details(self) -> dict[str, Any]:
        """Further fields of the answer, for programs."""
        return {}


class OutOfMemory(UserError):
    """A row does not fit into the memory, even alone and with checkpointed layers.

    The field out_of_memory of the answer extends the protocol. row is an index into the request's
    data; possible_tokens is the longest row that would fit.
    """

    def __init__(self, message: str, row: int, tokens: int, possible: int, sizes: tuple[int, int]):
        super().__init__(message)
        self.row, self.tokens, self.possible, self.sizes = row, tokens, possible, sizes

    def __reduce__(self) -> Any:
        fields = (str(self), self.row, self.tokens, self.possible, self.sizes)
        return type(self), fields

    def details(self) -> dict[str, Any]:
        """The figures."""
        figures = {
            "row": self.row,
            "row_tokens": self.tokens,
            "possible_tokens": self.possible,
            "needed_bytes": self.sizes[0],
            "free_bytes": self.sizes[1],
        }
        return {"out_of_memory": figures}


class Conflict(UserError):
    """A seq_id was used before for something else: answered with HTTP 409."""


class Chunk(Struct):
    """A run of token ids; the chunks of an input are concatenated."""

    tokens: list[int]
    type: str = "encoded_text"


class ModelInput(Struct):
    """The tokens that the model reads."""

    chunks: list[Chunk]


class TensorData(Struct):
    """A flat, row-major array. The sparse form is parsed only to refuse it."""

    data: list[float]
    dtype: str = "float32"
    shape: list[int] | None = None
    sparse_crow_indices: list[int] | None = None
    sparse_col_indices: list[int] | None = None


class Datum(Struct):
    """One training sequence: inputs of length T and per-position arrays of the same length."""

    model_input: ModelInput
    loss_fn_inputs: dict[str, TensorData]


class LossInput(Struct):
    """A batch and the loss to compute on it; losses are sums over all positions."""

    data: list[Datum]
    loss_fn: str
    loss_fn_config: dict[str, float] | None = None


class ForwardBackward(Struct):
    """POST forward_backward: adds the loss's gradient to the model's pending gradient."""

    model_id: str
    seq_id: int
    forward_backward_input: LossInput


class Forward(Struct):
    """POST forward: log-probs and loss, no gradient."""

    model_id: str
    seq_id: int
    forward_input: LossInput


class AdamParams(Struct):
    """AdamW with decoupled weight decay; grad_clip_norm 0 is off."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


class OptimStep(Struct):
    """POST optim_step: applies and clears the pending gradient."""

    model_id: str
    seq_id: int
    adam_params: AdamParams = field(default_factory=AdamParams)


class SaveWeights(Struct):
    """POST save_weights: writes a checkpoint that load_weights restores exactly."""

    model_id: str
    seq_id: int
    path: str
    overwrite: bool = False


class LoadWeights(Struct):
    """POST load_weights: path is tinker://<model>/weights/<name>."""

    model_id: str
    seq_id: int
    path: str
    optimizer: bool = False


class SaveForSampler(Struct):
    """POST save_weights_for_sampler: exports the adapter for inference servers."""

    model_id: str
    seq_id: int
    path: str | None = None
    overwrite: bool = False


class LoraSpec(Struct):
    """Shape of a new adapter. train_unembed has no effect, since inference servers cannot load an
    adapted output embedding. alpha and target_modules are extensions of the protocol: alpha is
    2·rank unless given; target_modules is "all-linear", "attention" or a list of names."""

    rank: int = 32
    seed: int | None = None
    alpha: float | None = None
    target_modules: str | list[str] = "all-linear"
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True


class CreateModel(Struct):
    """POST create_model: a fresh adapter; model_id is <session_id>:train:<model_seq_id>."""

    session_id: str
    model_seq_id: int
    base_model: str
    lora_config: LoraSpec = field(default_factory=LoraSpec)


class ModelRef(Struct):
    """POST get_info and unload_model."""

    model_id: str


class SessionRef(Struct):
    """POST session_heartbeat."""

    session_id: str


class RetrieveFuture(Struct):
    """POST retrieve_future."""

    request_id: str
    allow_metadata_only: bool = False


class Ordered(Struct):
    """The fields that identify an ordered request, even if the rest is invalid."""

    model_id: str
    seq_id: int


encode = msgspec.json.Encoder().encode


def tensor(values: list[float]) -> dict[str, Any]:
    """TensorData of a float32 vector, ready to encode."""
    return {"data": values, "dtype": "float32", "shape": [len(values)]}
