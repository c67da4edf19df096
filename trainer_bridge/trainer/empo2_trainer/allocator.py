"""Settings of the memory allocators. They must be made before torch is imported."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
MMAP_THRESHOLD = 4 << 20


def tune() -> None:
    """Give large blocks back to the kernel at once.

    Otherwise activations of different sizes fragment glibc's heap.
    Huge pages reduce the cost of fresh pages. Settings of the operator take precedence.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if platform.libc_ver()[0] != "glibc" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, MMAP_THRESHOLD)
