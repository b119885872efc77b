"""The packages of the extra `onnx`."""

import importlib
from collections.abc import Collection
from types import ModuleType


def import_onnx_package(name: str) -> ModuleType:
    """Imports a package of the extra `onnx`, or says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Export to ONNX needs the package {name!r}, which could not be imported ({error}). "
            'Install what it needs with: pip install -e ".[onnx]"'
        ) from error


def check_onnx_packages(formats: Collection[str]) -> None:
    """Raises ImportError where a package is missing that one of the formats takes."""
    if {"onnx", "photo_onnx"} & set(formats):
        for package in ("onnx", "onnxruntime", "tf2onnx"):
            import_onnx_package(package)
