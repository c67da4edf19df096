"""FSDP2: each rank keeps a part of every decoder layer and gathers the rest while it computes.

Only the layers of the frozen base are sharded. Embeddings and head are whole on every rank, since
the head's gradient is computed outside of the model. So is the adapter, which is created after the
layers were sharded: its gradients are summed as without sharding, and checkpoints and exports need
no gathering. The base has no gradient, so nothing is reduced here.

Every rank must run the same forwards and backwards in the same order: see step.py.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from empo2_trainer import memory
from empo2_trainer.checkpointing import decoder_layers
from empo2_trainer.model_dir import LoadError

log = logging.getLogger(__name__)


def device_mesh(device: torch.device) -> Any:
    """All ranks in one dimension. A collective call."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (torch.distributed.get_world_size(),))


class Sharding:
    """The sharded layers of a model, and where their gathered weights lie."""

    def __init__(self, hf: Any, device: torch.device, mesh: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        layers: list[Any] = decoder_layers(hf)
        if not layers:
            raise LoadError(
                f"model type {hf.config.model_type}: it has no list of decoder layers to shard",
                "use --parallel data",
            )
        for layer in layers:
            fully_shard(layer, mesh=mesh)  # moves the layer to the device, one at a time
        decoder = hf.get_decoder()
        sharded = {p for layer in layers for p in layer.parameters()}
        others = {p for p in decoder.parameters() if p not in sharded}
        fully_shard(decoder, mesh=mesh, ignored_params=others)
        hf.to(device)  # what is not in a layer
        kept = sum(p.to_local().nbytes for layer in layers for p in layer.parameters())
        whole = sum(p.nbytes for layer in layers for p in layer.parameters())
        part = f"{100 * kept / whole:.0f} % of {memory.gigabytes(whole)}"
        log.info("fsdp2: of %d layers this rank keeps %s", len(layers), part)
        self.storages: set[int] = set()  # of the gathered weights of the layer that computes
        self._layer_of = {id(m): layer for layer in layers for m in layer.modules()}
        for layer in layers:
            layer.register_forward_pre_hook(self._enter)
            layer.register_forward_hook(self._leave)

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """The weights of the layer that holds a module are plain tensors inside. All ranks must
        ask for the same."""
        layer: Any = self._layer_of.get(id(module))
        if layer is None:
            yield
            return
        layer.unshard()
        try:
            yield
        finally:
            layer.reshard()

    def _enter(self, layer: nn.Module, inputs: Any) -> None:
        self.storages = {p.untyped_storage().data_ptr() for p in layer.parameters()}

    def _leave(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self.storages = set()
