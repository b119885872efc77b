"""Tensors of PyTorch files from before its zip archives (1.6, 2020), without PyTorch.

Such a file is five pickles and then numbers. A pickle is a program, which may call anything: here
the standard library's disassembler lists its instructions, the few that describe tensors are
followed on a stack of plain values, and all else is refused.
"""

import io
import pickletools
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_TYPES = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
}
_COUNT = np.dtype("<i8")  # of numbers, before those of each storage

_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_CARRY_A_VALUE = ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(NamedTuple):
    """A class or function that the file names, and that is never looked up."""

    text: str


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


class _View(NamedTuple):
    """A tensor as the file has it: a start and steps in a storage, in numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def state_dict_arrays(content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary.

    Args:
        content: of a file that `torch.save(network.state_dict(), file)` wrote before PyTorch 1.6,
            or later with `_use_new_zipfile_serialization=False`.

    Returns:
        A dict from names to NumPy arrays, read-only, of the file's shapes and types.

    Raises:
        ValueError: content that is cut short, of another format, or that names anything but
            tensors. Nothing in it is run.

    Example:

    ```python
    state_dict_arrays(Path("network.pth").read_bytes())["conv1.weight"].shape
    ```
    """
    file = io.BytesIO(content)
    try:
        if _described(file) != _MAGIC_NUMBER or _described(file) != _PROTOCOL_VERSION:
            raise ValueError("it is no file of PyTorch from before its zip archives")
        byte_order = _described(file)["little_endian"]
        if byte_order is not True:
            raise ValueError("its numbers begin with their highest byte")
        views = _described(file)
        wrong = [name for name, view in views.items() if not isinstance(view, _View)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no tensor")
        types = {view.storage.key: view.storage.dtype for view in views.values()}
        storages = {key: _numbers(file, content, types[key]) for key in _described(file)}
        return {name: _array(view, storages[view.storage.key]) for name, view in views.items()}
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        # a damaged file can fail in any of these lines
        raise ValueError(
            "Expected the state dictionary of a network as PyTorch wrote it before 1.6, tensors "
            f"and their names. Received {len(content):,} bytes, cut short or of another kind: "
            f"{type(error).__name__}: {error}"
        ) from error


def _described(file: BinaryIO) -> Any:
    """What the next pickle of a file describes, in plain values and the classes above."""
    stack: list[Any] = []
    memory = {}

    def pop(count):
        taken = stack[len(stack) - count :]
        if len(taken) < count:
            raise ValueError("a value is missing")
        del stack[len(stack) - count :]
        return taken

    def pop_to_mark():
        start = len(stack) - stack[::-1].index(_MARK)
        taken = pop(len(stack) - start)
        stack.pop()
        return taken

    for instruction, value, _ in pickletools.genops(file):
        name = instruction.name
        if name == "STOP":
            return stack.pop()
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _CARRY_A_VALUE:
            stack.append(value)
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memory[value] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memory[value])
        elif name in _TUPLES:
            stack.append(tuple(pop(_TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(pop_to_mark()))
        elif name in ("APPENDS", "APPEND"):
            items = pop_to_mark() if name == "APPENDS" else pop(1)
            stack[-1].extend(items)
        elif name in ("SETITEMS", "SETITEM"):
            items = pop_to_mark() if name == "SETITEMS" else pop(2)
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_Name(str(value)))
        elif name == "BINPERSID":
            stack.append(_storage(*stack.pop()))
        elif name == "REDUCE":
            stack.append(_made(*pop(2)))
        elif name == "BUILD":
            stack.pop()  # attributes of the dictionary: versions of the modules
        elif name != "PROTO":
            raise ValueError(f"the instruction {name} describes no tensor")
    raise ValueError("its end is missing")


def _storage(kind, storage_type, key, device, count, view):
    if kind != "storage" or not isinstance(storage_type, _Name) or view is not None:
        raise ValueError(f"{kind!r} is no storage of numbers")
    if storage_type.text not in _TYPES:
        raise ValueError(f"{storage_type.text} is none of {', '.join(_TYPES)}")
    return _Storage(key, _TYPES[storage_type.text])


def _made(function, arguments):
    if function == _Name("collections OrderedDict") and arguments == ():
        return {}
    if function == _Name("torch._utils _rebuild_tensor_v2") and len(arguments) == 6:
        if not isinstance(arguments[0], _Storage):
            raise ValueError(f"{arguments[0]!r} is no storage of numbers")
        return _View(*arguments[:4])
    raise ValueError(f"{function!r} is called, which makes no tensor and is never run here")


def _numbers(file, content, dtype):
    (count,) = np.frombuffer(content, _COUNT, 1, file.tell()).tolist()
    start = file.tell() + _COUNT.itemsize
    numbers = np.frombuffer(content, dtype, max(count, 0), start)
    file.seek(start + numbers.nbytes)
    return numbers


def _array(view, numbers):
    size = view.storage.dtype.itemsize
    # NumPy compares shape and strides with the length of the storage
    return np.ndarray(
        view.shape,
        view.storage.dtype,
        numbers,
        offset=view.offset * size,
        strides=[step * size for step in view.strides],
    )
