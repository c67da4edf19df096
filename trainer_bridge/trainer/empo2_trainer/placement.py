"""Which device each rank has, and how the ranks share the model."""

import logging
import math
from argparse import Namespace

import torch

from empo2_trainer import memory
from empo2_trainer.model_dir import LoadError, stored_tensors
from empo2_trainer.ranks import Ranks

DATA_SHARE = 0.6  # of a device's free memory that the weights may fill without being sharded
ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a weight

log = logging.getLogger(__name__)


def check_devices(device: str, gpus: int) -> None:
    """Refuse more ranks than torch finds GPUs, unless they are processes on the CPU."""
    if gpus == 1 or device == "cpu":
        return
    if ":" in device:
        raise LoadError(
            f"device {device} names one GPU, and gpus is {gpus}",
            "use --device auto, or --gpus 1; CUDA_VISIBLE_DEVICES chooses among the GPUs",
        )
    found = torch.cuda.device_count()
    if found < gpus:
        hint = f"use --gpus {found}" if found else "use --gpus 1"
        raise LoadError(
            f"gpus is {gpus}, and torch finds {found} GPU{'' if found == 1 else 's'}",
            f"{hint}; with --device cpu the ranks are processes on the CPU",
        )


def device_of(device: str, gpus: int, rank: int) -> str:
    """The device of a rank."""
    return device if gpus == 1 or device == "cpu" else f"cuda:{rank}"


def is_sharded(args: Namespace, ranks: Ranks, device: torch.device) -> bool:
    """Whether the ranks share the base by FSDP2: as asked for, or for auto if the weights would
    leave too little room on a device. A collective call."""
    if args.quantize != "none" and args.parallel == "fsdp2":
        raise LoadError(
            f"parallel fsdp2 with quantize {args.quantize}: 4-bit weights cannot be sharded",
            "use --parallel data, or --quantize none",
        )
    if args.parallel != "auto" or args.quantize != "none":
        return bool(args.parallel == "fsdp2")
    values = sum(math.prod(shape) for _, shape in stored_tensors(args.model).values())
    weights = values * ITEM[args.dtype]
    sharers = ranks.size if device.type == "cpu" else 1
    room = ranks.told(min([1 << 62, *ranks.gather(memory.free(device) // sharers)]))
    chosen = "data" if weights <= DATA_SHARE * room else "fsdp2"
    sizes = f"weights of {memory.gigabytes(weights)}, {memory.gigabytes(room)} free on each device"
    log.info("parallel auto is %s: %s", chosen, sizes)
    return chosen == "fsdp2"
