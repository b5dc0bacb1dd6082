"""How this process treats memory it has freed: for those that move large buffers, hub, transfers and training.

glibc returns the top of the heap to the system whenever 128 KiB of it are free, and takes blocks above a threshold from
the system each time; fetching pages again costs a fault per 4 KiB. Nothing to do where the C library is not glibc.
"""

import ctypes

KEPT_BYTES = 32 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of glibc's <malloc.h>
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Let up to `KEPT_BYTES` of freed memory stay with the process: transfers in packets of 256 KiB, which gave them
    back after each one, took up to three times the CPU."""
    _mallopt({_TRIM_THRESHOLD: KEPT_BYTES, _MMAP_THRESHOLD: KEPT_BYTES})


def keep_all_freed_memory() -> None:
    """Let all of it stay: training needs the same blocks of many MB again at every step."""
    _mallopt({_TRIM_THRESHOLD: _NEVER, _MMAP_MAX: 0})


def _mallopt(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in options.items():
            mallopt(name, value)
