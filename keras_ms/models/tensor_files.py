"""Tensors by name from files of other frameworks, without running anything that a file holds.

A PyTorch `.pth` file is a pickle, which may call any function of the reader's machine: it is read
by `torch.load(weights_only=True)` alone, which refuses everything but tensors and plain
containers. A `.safetensors` file is a table of contents and numbers.
"""

import os
from pathlib import Path

import numpy as np

# before 2.6 a file could run code in spite of weights_only=True (CVE-2025-32434)
_SAFE_TORCH = (2, 6)

_TYPES = tuple(map(np.dtype, ("float64", "float32", "float16", "int64", "int32")))


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read every tensor of a file.

    Args:
        path: a `.pth`, `.pt` or `.bin` file with a state dictionary, which needs PyTorch, or a
            `.safetensors` file, which needs safetensors; both are of the extra `convert`.

    Returns:
        A dict from names to NumPy arrays, in the file's shapes and types.

    Raises:
        ValueError: a file that is missing, cut short, of another kind, or that holds anything but
            named tensors. Nothing in the file is run.
        ImportError: a PyTorch file without PyTorch, or with one before 2.6; a .safetensors file
            without safetensors.

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
            "read by the small package safetensors."
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
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(
            f"Reading {path.name} needs safetensors: `pip install safetensors`, or "
            '`pip install -e ".[convert]"`'
        ) from error
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # a damaged file can fail in any part of the reader
        raise ValueError(
            f"Cannot read {path} ({path.stat().st_size:,} bytes): it is no .safetensors file, cut "
            "short or damaged, or holds types of numbers that NumPy lacks. safetensors says: "
            f"{_first_line(error)}"
        ) from error
    others = {name: x.dtype.name for name, x in tensors.items() if x.dtype not in _TYPES}
    if others:
        raise ValueError(
            f"Expected tensors of {', '.join(map(str, _TYPES))} in {path}. It holds also: "
            + ", ".join(f"{name} ({kind})" for name, kind in others.items())
            + ". Save them in float32"
        )
    return tensors


def _first_line(error):
    return next(iter(str(error).splitlines()), type(error).__name__)
