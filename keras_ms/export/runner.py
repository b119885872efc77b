"""Runs a model file on batches of images: Keras, SavedModel or ONNX."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from keras_ms.export.onnx_packages import import_onnx_package
from keras_ms.export.plain_path import plain_path
from keras_ms.export.preprocessing import saved_model_facts

FORMATS = "a .keras file, a SavedModel folder or an .onnx file"


class FileRunner(NamedTuple):
    """A model file, loaded.

    Attributes:
        run: function from a batch of images in `input_dtype` to embeddings, both NumPy arrays.
        input_shape: with the batch; None where a size is open.
        input_dtype: "float32" or an integer type.
        facts: dict of what the file says about itself; of a .keras file its fingerprint alone.
        signatures: functions of tensors by name, of a SavedModel; of others none.
    """

    run: Callable[[np.ndarray], Any]
    input_shape: tuple
    input_dtype: str
    facts: dict
    signatures: Mapping[str, Any] = MappingProxyType({})


class WrongModel(ValueError):
    """A model that was loaded and has other inputs or outputs than one each."""


def load_runner(path: str | Path, *, device: str | None = None) -> FileRunner:
    """Loads a file whose model has one input and one output.

    Args:
        path: a .keras file, a SavedModel folder or an .onnx file, which runs on the processor.
        device: where TensorFlow loads and runs a SavedModel, such as "/CPU:0". Defaults to None:
            where TensorFlow chooses.

    Returns:
        A `FileRunner`.

    Raises:
        FileNotFoundError: nothing at `path`.
        ImportError: an ONNX file without onnxruntime, of the extra `onnx`.
        ValueError: a file of another kind, one that cannot be loaded, or (`WrongModel`) a model
            with more inputs or outputs.

    Example:

    ```python
    runner = load_runner("embedder.onnx")
    embeddings = runner.run(images.astype(runner.input_dtype))
    ```
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected {FORMATS}. Nothing is at {path}")
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise ValueError(f"Expected {FORMATS}. The folder {path} holds no saved_model.pb")
    elif path.suffix not in (".keras", ".onnx"):
        raise ValueError(f"Expected {FORMATS}. Received: {path}")
    try:
        with plain_path(path) as readable:
            if path.is_dir():
                return _saved_model(readable, device)
            return _keras_model(readable) if path.suffix == ".keras" else _onnx_model(readable)
    except (ImportError, WrongModel):
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as {FORMATS}: {error}") from error


def _keras_model(path):
    from keras_ms.export.fingerprint import model_fingerprint
    from keras_ms.models.keras_file import load_keras_file

    model = load_keras_file(path)
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) != 1:
        raise WrongModel(
            f"Expected a functional or sequential model with one input. {path.name} has "
            f"{len(inputs) or 'none that is known'}"
        )
    dtype = inputs[0].dtype
    dtype = dtype if "int" in dtype else "float32"
    facts = {"model_fingerprint": model_fingerprint(model)}
    return FileRunner(model.predict_on_batch, tuple(inputs[0].shape), dtype, facts)


def _saved_model(path, device):
    import tensorflow as tf

    def placed():
        return tf.device(device) if device else contextlib.nullcontext()

    with placed():
        loaded: Any = tf.saved_model.load(str(path))
    if "serving_default" not in loaded.signatures:
        raise WrongModel(
            f"Expected the signature `serving_default` in {path.name}. It has: "
            f"{sorted(loaded.signatures)}"
        )
    signature = loaded.signatures["serving_default"]
    ((name, spec),) = _single(signature.structured_input_signature[1], "input", path).items()
    ((output, _),) = _single(signature.structured_outputs, "output", path).items()

    def run(images):
        # closes over `loaded`: its variables must stay alive while a signature is called
        with placed():
            return loaded.signatures["serving_default"](**{name: tf.constant(images)})[
                output
            ].numpy()

    facts = saved_model_facts(path)
    return FileRunner(run, tuple(spec.shape), spec.dtype.name, facts, loaded.signatures)


def _onnx_model(path):
    onnxruntime: Any = import_onnx_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised, with the same text
    # its threads would wait for work by spinning, on the cores that decode the next pictures
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    ((name, taken),) = _single(inputs, "input", path).items()
    ((output, _),) = _single(outputs, "output", path).items()
    dtype = _ONNX_TYPES.get(taken.type)
    if dtype is None:
        raise WrongModel(
            f"Expected images of one of {', '.join(_ONNX_TYPES.values())}. {path.name} takes "
            f"{taken.type}"
        )
    # open sizes are texts
    shape = tuple(size if isinstance(size, int) else None for size in taken.shape)
    facts = dict(session.get_modelmeta().custom_metadata_map)
    return FileRunner(lambda images: session.run([output], {name: images})[0], shape, dtype, facts)


_INTEGERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
_ONNX_TYPES = {"tensor(float)": "float32"} | {f"tensor({kind})": kind for kind in _INTEGERS}


def _single(values, kind, path):
    if len(values) != 1:
        raise WrongModel(
            f"Expected a model with one {kind}. {path.name} has {len(values)}: {sorted(values)}"
        )
    return values
