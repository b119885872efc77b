"""Tensors by name from files of other frameworks, without running anything that a file holds.

A PyTorch `.pth` file is a pickle, which may call any function of the reader's machine: it is read
by `torch.load(weights_only=True)` alone, which refuses everything but tensors and plain
containers. A `.safetensors` file is a table of contents and numbers; it is read here, with NumPy.
"""

import json
import math
from pathlib import Path

import numpy as np

# before 2.6 a file could run code in spite of weights_only=True (CVE-2025-32434)
_SAFE_TORCH = (2, 6)

_SAFETENSORS_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
# the format's own limit of its header
_HEADER_BYTES = 100_000_000


def read_tensors(path):
    """Read every tensor of a file.

    Args:
        path: a `.pth`, `.pt` or `.bin` file with a state dictionary, which needs PyTorch, or a
            `.safetensors` file, which does not.

    Returns:
        A dict from names to NumPy arrays, in the file's order, shapes and types.

    Raises:
        ValueError: a file that is missing, cut short, of another kind, or that holds anything but
            named tensors. Nothing in the file is run.
        ImportError: a PyTorch file without PyTorch, or with one before 2.6.

    Example:
        >>> read_tensors("network.safetensors")["conv1.weight"].shape
        (64, 3, 7, 7)
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Expected a file of tensors. Nothing is at {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pth", ".pt", ".bin"):
        return _read_torch(path)
    raise ValueError(
        f"Expected a .pth, .pt or .bin file of PyTorch, or a .safetensors file. Received: {path}"
    )


def _read_torch(path):
    torch = _safe_torch(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any part of the reader
        raise ValueError(
            f"Cannot read {path} ({path.stat().st_size:,} bytes): it is cut short, is no PyTorch "
            "file, or holds objects other than tensors, which are never run here. Expected the "
            "state dictionary of a network, saved with torch.save(network.state_dict(), file). "
            f"torch says: {_first_line(error)}"
        ) from error
    if not isinstance(held, dict) or not held:
        raise ValueError(
            f"Expected a state dictionary, names and tensors, in {path}. It holds: "
            f"{type(held).__name__}"
        )
    others = {
        str(name): type(value).__name__
        for name, value in held.items()
        if not isinstance(name, str) or not _is_plain(value, torch)
    }
    if others:
        raise ValueError(
            f"Expected names and tensors of numbers in {path}. It holds also: "
            + ", ".join(f"{name} ({kind})" for name, kind in others.items())
            + ". Save the state dictionary alone, in float32"
        )
    return {name: tensor.detach().numpy() for name, tensor in held.items()}


def _safe_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Reading {path.name} needs PyTorch, of which the build without GPU will do: "
            "`pip install torch`. Or convert the file to .safetensors where PyTorch is; that is "
            "read without it."
        ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE_TORCH:
        raise ImportError(
            "PyTorch before 2.6 can be made to run code by a weights file: `pip install "
            f"'torch>=2.6'`. Installed: {torch.__version__}"
        )
    return torch


def _is_plain(value, torch):
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.dtype in (torch.float64, torch.float32, torch.float16, torch.int64, torch.int32)
    )


def _read_safetensors(path):
    """8 bytes with the header's length, the header as JSON, then the numbers of all tensors."""
    contents = path.read_bytes()
    length = int.from_bytes(contents[:8], "little")
    if len(contents) < 8 or not 2 <= length <= min(_HEADER_BYTES, len(contents) - 8):
        raise ValueError(
            f"{path} ({len(contents):,} bytes) is no .safetensors file, or it is cut short"
        )
    try:
        header = json.loads(contents[8 : 8 + length])
        header.pop("__metadata__", None)
        entries = {
            name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in header.items()
        }
        return {
            name: _tensor(name, contents, 8 + length, *entry) for name, entry in entries.items()
        }
    except (
        ValueError,
        AttributeError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"Cannot read {path}, a damaged .safetensors file: {error}") from error


def _tensor(name, contents, data_start, dtype, shape, begin, end):
    if dtype not in _SAFETENSORS_TYPES:
        raise ValueError(
            f"{name} has the type {dtype}. Expected one of {', '.join(_SAFETENSORS_TYPES)}"
        )
    size = math.prod(shape) * np.dtype(_SAFETENSORS_TYPES[dtype]).itemsize
    room = len(contents) - data_start
    if not 0 <= begin <= end <= room or end - begin != size:
        raise ValueError(
            f"{name} of shape {shape} takes {size:,} bytes. The header gives it bytes {begin:,} "
            f"to {end:,} of {room:,}"
        )
    values = contents[data_start + begin : data_start + end]
    return np.frombuffer(values, _SAFETENSORS_TYPES[dtype]).reshape(shape)


def _first_line(error):
    return next(iter(str(error).splitlines()), type(error).__name__)
