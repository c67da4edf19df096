"""The operations of the server. Every method runs on the one thread that owns torch.

If a request is invalid, a method raises UserError and does not change the model.
"""

from pathlib import Path
from typing import Any

from empo2_trainer import export, gguf_export, merge
from empo2_trainer.datums import Sequence
from empo2_trainer.losses import Loss
from empo2_trainer.model import Policy, alpha_of
from empo2_trainer.protocol import AdamParams, LoraSpec, UserError, tensor
from empo2_trainer.replica import Model, Replica
from empo2_trainer.store import Store
from empo2_trainer.targets import peft_excluded, select

OUTPUT_TYPES = {"cross_entropy": "CrossEntropyLossReturn"}
MAX_RANK = 1024


class Trainer:
    """A base model, its adapters in training and the run directory that they are saved to. With
    several ranks it is on rank 0, which alone writes and reads files."""

    def __init__(self, policy: Policy, root: Path, seed: int, formats: tuple[str, ...]) -> None:
        self.policy = policy
        self.replica = Replica(policy)
        self.models: dict[str, Model] = self.replica.models
        self.seed = seed
        self.formats = formats
        self.adapters = Store(root / "adapters")
        self.checkpoints = Store(root / "checkpoints", manifest="meta.json")
        self._writers: dict[str, list[str]] = {}  # models that wrote a checkpoint, by its name
        self._created = 0

    def create(self, model_id: str, spec: LoraSpec) -> dict[str, Any]:
        """A new adapter whose output equals the base model's."""
        if not 1 <= spec.rank <= MAX_RANK:
            raise UserError(f"lora_config rank = {spec.rank}: must be within 1..{MAX_RANK}")
        alpha = alpha_of(spec)
        if not 0 < alpha < 1e6:
            raise UserError(f"lora_config alpha = {alpha}: must be positive")
        modules = select(self.policy.hf, spec).modules
        if "gguf" in self.formats:
            gguf_export.check_modules(self.policy.directory, modules)
        if "merged" in self.formats:
            merge.check_modules(self.policy.directory, modules)
        self._created += 1
        adapter = f"m{self._created}"
        seed = self.seed if spec.seed is None else spec.seed
        targets = self.replica.together("add", model_id, adapter, spec, alpha, seed)
        if self.policy.ranks.size > 1:  # whatever their random numbers are
            weights = export.on_cpu(self.models[model_id].optimizer.parameters)
            self.replica.together("adopt", model_id, weights, {})
        return {
            "model_id": model_id,
            "type": "create_model",
            "target_modules": targets.patterns,
            "skipped_modules": targets.skipped,
        }

    def get(self, model_id: str) -> Model:
        """A model by its id."""
        return self.replica.get(model_id)

    def unload(self, model_id: str) -> dict[str, Any]:
        """Remove a model. Its saved files stay."""
        self.replica.together("remove", model_id)
        return {"model_id": model_id, "type": "unload_model"}

    def run(
        self, model_id: str, sequences: list[Sequence], loss: Loss, backward: bool
    ) -> dict[str, Any]:
        """forward or forward_backward. After a failure no part of the gradient remains."""
        result = self.replica.run_shares(model_id, sequences, loss, backward)
        return {
            "loss_fn_output_type": OUTPUT_TYPES.get(loss.name, "TorchLossReturn"),
            "loss_fn_outputs": [{"logprobs": tensor(values)} for values in result.logprobs],
            "metrics": result.metrics.wire() | result.usage.wire(),
        }

    def refuse(self, model_id: str, message: str) -> dict[str, Any]:
        """Fail a forward_backward that is invalid: a gradient without it is incomplete."""
        self.replica.together("refuse", model_id, message)
        raise UserError(message)

    def optim_step(self, model_id: str, adam: AdamParams) -> dict[str, Any]:
        """Apply the pending gradient."""
        return {"metrics": self.replica.together("optim_step", model_id, adam)}

    def save(self, model_id: str, name: str, overwrite: bool) -> dict[str, Any]:
        """Write a checkpoint: adapter and optimizer."""
        model = self.get(model_id)
        self.replica.together("compare", model_id)
        optimizer = model.optimizer
        about = {
            **model.about,
            "version_name": name,
            "base_model": self.policy.directory,
            "optimizer_steps": optimizer.steps,
        }
        path = self.checkpoints.write(
            name,
            about,
            lambda d: export.write_checkpoint(d, {**optimizer.parameters}, optimizer.state()),
            overwrite,
        )
        self._writers.setdefault(name, []).append(model_id)
        return {
            "path": f"tinker://{model_id}/weights/{name}",
            "dir": str(path),
            "type": "save_weights",
        }

    def load(self, model_id: str, path: str, optimizer: bool) -> dict[str, Any]:
        """Restore a checkpoint; without optimizer, its state is reset."""
        model = self.get(model_id)
        owner, name = checkpoint_name(path)
        writers = self._writers.get(name, [])
        if owner in writers and writers[-1] != owner:
            raise UserError(f"path {path!r}: model {writers[-1]} has overwritten {name}")
        about = self.checkpoints.verify(name)
        for key, value in model.about.items():
            if about.get(key) != value:
                raise UserError(f"{name} has {key} {about.get(key)}, the model {value}")
        weights, state = export.read_checkpoint(self.checkpoints.root / name)
        self.replica.together("adopt", model_id, weights, state if optimizer else {})
        return {"path": path, "model_id": model_id, "type": "load_weights"}

    def export(self, model_id: str, name: str, overwrite: bool) -> dict[str, Any]:
        """Write the adapter for inference servers, in every format of the run."""
        model = self.get(model_id)
        self.replica.together("compare", model_id)
        weights = {n: p.detach() for n, p in model.optimizer.parameters.items()}
        modules = export.module_names(weights)
        config = export.peft_config(
            self.policy.directory,
            model.rank,
            model.alpha,
            export.last_names(modules),
            peft_excluded(self.policy.hf, modules),
        )

        def fill(directory: Path) -> None:
            if "peft" in self.formats:
                export.write_peft(directory, config, weights)
            if "gguf" in self.formats:
                target = directory / "adapter.gguf"
                gguf_export.write_adapter(target, self.policy.directory, config, weights)

        about = {**model.about, "version_name": name, "base_model": self.policy.directory}
        path = self.adapters.write(name, about, fill, overwrite)
        self.replica.together("release")
        return {
            "path": f"tinker://{model_id}/sampler_weights/{name}",
            "sampling_session_id": None,
            "dir": str(path),
            "type": "save_weights_for_sampler",
        }


def checkpoint_name(path: str) -> tuple[str, str]:
    """Model and name in tinker://<model>/weights/<name>; the model may be of an earlier process."""
    parts = path.removeprefix("tinker://").split("/")
    if not path.startswith("tinker://") or len(parts) != 3 or parts[1] != "weights":
        raise UserError(f"path {path!r}: must be tinker://<model_id>/weights/<name>")
    return parts[0], parts[2]
