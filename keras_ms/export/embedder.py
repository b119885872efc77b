"""Images to embeddings with any model file: Keras, SavedModel or ONNX."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_ms.data.damaged_images import naming_damaged
from keras_ms.data.images import default_resize_to, evaluation_batches, side_for
from keras_ms.export.parity import import_onnx_package
from keras_ms.export.preprocessing import (
    Preprocessing,
    recorded_preprocessing,
    saved_model_facts,
)
from keras_ms.export.utf8_path import utf8_path
from keras_ms.terminal.progress import is_terminal, progress_lines

FORMATS = "a .keras file, a SavedModel folder or an .onnx file"


class Embedder(NamedTuple):
    """A model file, loaded.

    Attributes:
        run: function from images (batch, height, width, 3), RGB 0-255 in `input_dtype`, to
            embeddings, both NumPy arrays.
        image_size: side of its images in pixels; None where the model takes any.
        input_dtype: "float32" or an integer type.
        name: the file's name.
        batch_size: images that it takes at a time; None where it takes any number.
        preprocessing: the `Preprocessing` that the file records; None where it holds none.
    """

    run: Any
    image_size: int
    input_dtype: str
    name: str
    batch_size: int = None
    preprocessing: Preprocessing = None


def load_embedder(path):
    """Loads a model of images for embedding them.

    A `.keras` file is loaded in Keras's safe mode, which refuses code inside the file (Lambda
    layers). A SavedModel and an ONNX file hold graphs of fixed operations; TensorFlow has some
    that read and write files, so take SavedModels from sources you trust.

    Args:
        path: a .keras file, a SavedModel folder or an .onnx file.

    Returns:
        An `Embedder`.

    Raises:
        FileNotFoundError: nothing at `path`.
        ImportError: an ONNX file without onnxruntime, of the extra `onnx`.
        ValueError: a file of another kind, one that cannot be loaded, or a model that does not
            take square RGB images, (batch, size, size, 3), as its only input; or one whose file
            wants images prepared as this version cannot.

    Example:

    ```python
    embedder = load_embedder("saved_models/birds/embedder.onnx")
    embeddings = embed_images(embedder, keras_ms.ImageList.from_folder("birds").subset("test"))
    ```
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected {FORMATS}. Nothing is at {path}")
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise ValueError(f"Expected {FORMATS}. The folder {path} holds no saved_model.pb")
        load = _saved_model
    elif path.suffix in (".keras", ".onnx"):
        load = {".keras": _keras_model, ".onnx": _onnx_model}[path.suffix]
    else:
        raise ValueError(f"Expected {FORMATS}. Received: {path}")
    try:
        with utf8_path(path) as readable:
            run, shape, dtype, facts = load(readable)
    except (ImportError, _WrongModel):
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as {FORMATS}: {error}") from error
    rule = recorded_preprocessing(facts, path.name)
    return Embedder(run, _side(shape, path), dtype, path.name, shape[0], rule)


def embed_images(embedder, images, *, image_size=None, resize_to=None, batch_size=64, verbose=True):
    """Embeds every image of a list, in order.

    Photos are turned as their EXIF orientation says, unless the model's file wants them as they
    are stored.

    Args:
        embedder: `Embedder`.
        images: ImageList.
        image_size, resize_to: what `view_sizes` takes.
        batch_size: images embedded at a time. Changes memory and speed only; a model of a fixed
            batch is given its own.
        verbose: show progress on standard error, if it is a terminal.

    Returns:
        float32 array (len(images), dimension).

    Raises:
        ValueError: `image_size` that the model does not take, an image that cannot be read, an
            output that is not one row an image, or NaN or infinity in it; the first such image is
            named.
    """
    image_size, resize_to = view_sizes(embedder, images, image_size=image_size, resize_to=resize_to)
    if embedder.preprocessing and embedder.preprocessing.exif_orientation is not None:
        rule = embedder.preprocessing.exif_orientation
        images = replace(images, apply_exif_orientation=rule)
    batches = evaluation_batches(
        images,
        image_size,
        resize_to=resize_to,
        batch_size=embedder.batch_size or batch_size,
        cache=False,
    )
    shown, start = verbose and is_terminal(sys.stderr), time.monotonic()
    tell = progress_lines("embedding", len(images)) if verbose and not shown else None
    rows, done = [], 0
    with naming_damaged(images):
        for batch, _ in batches:
            rows.append(_embedded(embedder, batch.numpy(), images.paths[done:]))
            done += len(rows[-1])
            if tell:
                tell(done / len(images))
            if shown:
                rate = done / (time.monotonic() - start)
                line = f"\r\033[K{done:,} of {len(images):,} images embedded, {rate:.0f} a second"
                print(line, end="", file=sys.stderr, flush=True)
    if shown:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return np.concatenate(rows)


def view_sizes(embedder, images, *, image_size=None, resize_to=None):
    """The sizes at which a model is shown a list of images.

    What is given wins; then what the model's file records; then the defaults of
    `keras_ms.data.images.evaluation_batches`.

    Args:
        embedder: `Embedder`.
        images: ImageList.
        image_size: side of the centre that is cut out, in pixels, or None.
        resize_to: pixels of the shorter side before the cut, or None. A record counts for its own
            `image_size` alone.

    Returns:
        (image_size, resize_to).

    Raises:
        ValueError: `image_size` that the model does not take.
    """
    if embedder.image_size and image_size not in (None, embedder.image_size):
        raise ValueError(
            f"{embedder.name} takes images of {embedder.image_size} x {embedder.image_size} "
            f"pixels. Received: image_size={image_size}. Leave it out"
        )
    rule = embedder.preprocessing or Preprocessing()
    recorded = rule.image_size if isinstance(rule.image_size, int) else None  # a square's side
    size = side_for(images, image_size or embedder.image_size or recorded)
    if resize_to is None and recorded == size:
        resize_to = rule.resize_to
    return size, default_resize_to(images, size) if resize_to is None else resize_to


def _embedded(embedder, batch, names):
    count = len(batch)
    if embedder.batch_size:
        # the last image again, up to a whole batch
        batch = np.pad(batch, [(0, embedder.batch_size - count)] + [(0, 0)] * 3, mode="edge")
    output = np.asarray(embedder.run(batch.astype(embedder.input_dtype)))
    if output.ndim != 2 or len(output) != len(batch):
        raise ValueError(
            f"Expected one embedding an image, shape ({len(batch)}, dimension). {embedder.name} "
            f"returned shape {output.shape}"
        )
    output = output[:count]
    finite = np.isfinite(output).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{embedder.name} returns NaN or infinity for {np.count_nonzero(~finite)} of a batch "
            f"of {count} images, the first is {names[np.argmin(finite)]}. Look for NaN in the "
            "weights (a training that diverged) or a division by a norm of 0"
        )
    return output.astype(np.float32)


class _WrongModel(ValueError):
    """A model that was loaded and is not one of images."""


def _keras_model(path):
    from keras_ms.export.keras_file import load_keras_file

    model = load_keras_file(path)
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) != 1:
        raise _WrongModel(
            f"Expected a functional or sequential model with one input. {path.name} has "
            f"{len(inputs) or 'none that is known'}"
        )
    dtype = inputs[0].dtype
    dtype = dtype if "int" in dtype else "float32"
    return model.predict_on_batch, tuple(inputs[0].shape), dtype, {}


def _saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    if "serving_default" not in loaded.signatures:
        raise _WrongModel(
            f"Expected the signature `serving_default` in {path.name}. It has: "
            f"{sorted(loaded.signatures)}"
        )
    signature = loaded.signatures["serving_default"]
    ((name, spec),) = _single(signature.structured_input_signature[1], "input", path).items()
    ((output, _),) = _single(signature.structured_outputs, "output", path).items()

    def run(images):
        # closes over `loaded`: its variables must stay alive while a signature is called
        return loaded.signatures["serving_default"](**{name: tf.constant(images)})[output].numpy()

    return run, tuple(spec.shape), spec.dtype.name, saved_model_facts(path)


def _onnx_model(path):
    onnxruntime = import_onnx_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised, with the same text
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    ((name, taken),) = _single(inputs, "input", path).items()
    ((output, _),) = _single(outputs, "output", path).items()
    dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}.get(taken.type)
    if dtype is None:
        raise _WrongModel(f"Expected float32 or uint8 images. {path.name} takes {taken.type}")
    # open sizes are texts
    shape = tuple(size if isinstance(size, int) else None for size in taken.shape)
    facts = session.get_modelmeta().custom_metadata_map
    return lambda images: session.run([output], {name: images})[0], shape, dtype, facts


def _single(values, kind, path):
    if len(values) != 1:
        raise _WrongModel(
            f"Expected a model with one {kind}. {path.name} has {len(values)}: {sorted(values)}"
        )
    return values


def _side(shape, path):
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise ValueError(
            f"Expected a model of square RGB images, input shape (batch, size, size, 3). "
            f"{path.name} takes {shape}"
        )
    return shape[1]
