"""Memory that a training frees and takes again at every step stays with its process."""

import ctypes
import os
import platform

from keras_ms.terminal.cores import num_cores

# numbers of GNU's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE = 2**30
# what older versions take at most
_LARGE_BEFORE = 2**25
# threads of more processors would wait for each other at one place
_FEW_PROCESSORS = 8


def keep_freed_memory() -> bool:
    """Tells GNU's malloc to keep up to 1 GiB of freed memory.

    With up to 8 processors it is kept in one place for all threads, else in some for each of them,
    as by default; measured on two.

    By default a block of some megabytes goes back to the system when it is freed, and those of a
    thread other than the first even sooner. A training frees the same blocks at every step: the
    system then fills their pages with zeros again, one interruption for every 4 KiB.

    Settings of the user, MALLOC_… or GLIBC_TUNABLES in the environment, are left alone.

    Returns:
        bool: whether it was told; other systems have other allocators.
    """
    is_set = any(name.startswith("MALLOC_") for name in os.environ)
    if is_set or "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    if num_cores() <= _FEW_PROCESSORS:
        mallopt(_ARENA_MAX, 1)
    mallopt(_TRIM_THRESHOLD, _LARGE)
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE) or mallopt(_MMAP_THRESHOLD, _LARGE_BEFORE))
