"""How this process treats memory it has freed: for those that move large buffers, the hub and the agent's transfers."""

import ctypes

KEPT_BYTES = 32 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's <malloc.h>


def keep_freed_memory() -> None:
    """Let up to `KEPT_BYTES` of freed memory stay with the process. Nothing to do where the C library is not glibc.

    glibc returns the top of the heap to the system whenever 128 KiB of it are free. With packets of 256 KiB that is
    after each one, and fetching the pages again costs a fault per 4 KiB: transfers took up to three times the CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
