"""How much memory there is, how much a pass used, and what to do when it runs out.

On a CPU the process ends when the machine's memory is used up: Linux grants every allocation and
kills later. So large micro-batches ask `require` first. On a GPU the allocator reports the failure.
"""

import ctypes
import gc
import platform
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

SMALL = 256 << 20  # bytes that need no look at the machine
RESERVE = 256 << 20  # bytes left to other processes
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "bad allocation")


class Shortage(MemoryError):
    """A micro-batch would need more memory than is free."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(f"{gigabytes(needed)} needed, {gigabytes(free)} free")


def gigabytes(size: float) -> str:
    """A size in GB with one or two decimals."""
    return f"{size / 1e9:.2f} GB" if size < 1e10 else f"{size / 1e9:.1f} GB"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that an allocation failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error).lower() for s in OUT_OF_MEMORY)


def release(device: torch.device) -> None:
    """Give unused memory back: CUDA's cache, or unused blocks of glibc's heap."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def collect(device: torch.device) -> None:
    """Like release, after a failure: references in cycles are dropped first."""
    gc.collect()
    release(device)


def free(device: torch.device) -> int:
    """Bytes that can still be allocated; a very large number where that is unknown."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min([1 << 62, *_machine_free(), *_control_group_free()])


def require(device: torch.device, needed: int) -> None:
    """Raise Shortage if a pass that needs so many bytes would exhaust the machine."""
    if device.type != "cpu" or needed <= SMALL:
        return
    room = free(device) - RESERVE
    if needed > room:
        raise Shortage(needed, max(0, room))


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # without it the peak counts from the process's start
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Most bytes in use since reset_peak: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _machine_free() -> list[int]:
    lines = _lines("/proc/meminfo")
    return [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]


def _control_group_free() -> list[int]:
    """Room in every control group above this process, both versions of the interface."""
    found = []
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = Path("/sys/fs/cgroup") / ("" if controllers == "" else "memory")
        limit, used = (
            ("memory.max", "memory.current")
            if controllers == ""
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        folder = top / path.lstrip("/")
        for group in [folder, *folder.parents]:
            if not group.is_relative_to(top):
                break
            found += _group_free(group, limit, used)
    return found


def _group_free(group: Path, limit: str, used: str) -> list[int]:
    try:
        most, now = (group / limit).read_text().strip(), int((group / used).read_text())
    except (OSError, ValueError):
        return []
    if not most.isdigit():
        return []
    cached = [
        int(line.split()[1])
        for line in _lines(str(group / "memory.stat"))
        if line.startswith(("inactive_file ", "total_inactive_file "))
    ]
    return [int(most) - now + max(cached, default=0)]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
