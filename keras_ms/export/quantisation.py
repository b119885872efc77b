"""Smaller ONNX files, float16 and int8, kept only if photos find each other as well as before."""

import json
import math
import os
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

from keras_ms.data.image_list import ImageList
from keras_ms.export.int8_layers import (
    calibrated,
    check_int8,
    layers_of,
    most_harmful,
    quantised,
    with_named_nodes,
)
from keras_ms.export.onnx_packages import import_onnx_package
from keras_ms.export.photo_graph import photo_graph, with_photo_graph
from keras_ms.export.preprocessing import Preprocessing, recorded_preprocessing
from keras_ms.export.quantisation_gate import (
    FloatNetwork,
    GateFigures,
    GateImages,
    figures_of,
    gate_images,
    run_float,
)
from keras_ms.files import check_can_be_written, whole_file
from keras_ms.terminal.progress import print_line, progress_lines

KINDS = ("float16", "int8")
# a file with more layers in float is hardly smaller any more
_MOST_IN_FLOAT = 0.25


class QuantisationRefused(ValueError):
    """No smaller file is as good as it has to be; the message holds the figures.

    A `ValueError`, raised without writing a file.

    Example:

    ```python
    try:
        keras_ms.export.quantize_onnx("embedder.onnx", images, max_loss=0.2)
    except keras_ms.export.QuantisationRefused as error:
        print(error)  # Recall@1 of every trial
    ```
    """


class Quantised(NamedTuple):
    """A smaller file that was written.

    Attributes:
        path: of it.
        figures: what it costs.
        float_layers: names of the layers that were left in float.
    """

    path: Path
    figures: GateFigures
    float_layers: tuple[str, ...]


def quantize_onnx(
    path: str | os.PathLike,
    images: ImageList,
    *,
    to: str | os.PathLike | None = None,
    kind: Literal["float16", "int8"] = "int8",
    max_loss: float = 0.5,
    log: Callable[[str], Any] = print_line,
) -> Quantised:
    """Writes an exported embedder with smaller numbers, if its embeddings stay as good.

    Smaller numbers may leave the recall of an embedder as it is and still give other embeddings,
    which no longer fit a gallery that the float file embedded. So a file is kept only if Recall@1
    on the images falls by at most `max_loss` points in each of three ways: its own queries in its
    own gallery, float queries in its gallery, its queries in a float gallery.

    - float16: weights and arithmetic; images and embeddings stay float32.
    - int8: weights, a scale for each channel, and what enters a layer, with the ranges that the
      values have on a quarter of the classes (static quantisation, QDQ). Where that fails, layers
      are left in float: 1, 2, 4 … of those whose return to float, each alone, brings the
      embeddings of calibration images nearest to the float ones, up to a quarter of all.

    The other classes measure. In a file that prepares pictures itself the network alone changes.
    The new file holds what the float file says about itself, its fingerprint too.

    Args:
        path: an .onnx file of `export_onnx`, in float32, which says how photos are prepared.
        images: photos with classes, of those that trained: test classes would choose the layers.
        to: file to write. Defaults to `None`: beside `path`, named `embedder.int8.onnx`.
        kind: "float16" or "int8". Defaults to "int8".
        max_loss: points, at least 0. Defaults to `0.5`, of 2,000 images ten queries.
        log: function that takes a line of text for the user. Defaults to printing it.

    Returns:
        A `Quantised`.

    Raises:
        FileNotFoundError: nothing at `path`.
        ImportError: a package of the extra `onnx` is missing.
        ValueError: another file, one of an opset below 13 for int8, too few images, or a wrong
            argument.
        QuantisationRefused: every trial lost more than `max_loss`; no file is written.

    Example:

    ```python
    birds = keras_ms.ImageList.from_folder("birds").subset("train")
    keras_ms.export.quantize_onnx("embedder.onnx", birds).figures.mean_cosine
    ```
    """
    path = Path(path)
    if kind not in KINDS:
        raise ValueError(f"Expected `kind` to be one of {', '.join(KINDS)}. Received: {kind!r}")
    check_max_loss(max_loss)
    to = quantised_path(path, kind) if to is None else Path(to)
    source = _read(path)
    if kind == "int8":
        check_int8(source.network, path.name)
    check_can_be_written(to.parent)
    gate = gate_images(images, source.rule)
    log(f"{path.name}: {gate.words}")
    exact = run_float(source.network, gate, source.dtype)
    trials = _float16 if kind == "float16" else _int8
    told, found = [], None  # (loss, what was tried and what it gave)
    for network, in_float in trials(source.network, gate, exact, log):
        figures = figures_of(network, gate, exact)
        layers = "1 layer" if len(in_float) == 1 else f"{len(in_float)} layers"
        left = f", {layers} in float" if in_float else ""
        told.append((figures.loss, f"{kind}{left}: {figures}"))
        log(told[-1][1])
        if figures.loss <= max_loss:
            found = network, in_float, figures
            break
    if found is None:
        least, best = min(told)
        enough = math.ceil(10 * least) / 10
        raise QuantisationRefused(
            f"No {kind} file of {path.name} was written: Recall@1 falls by more than {max_loss:g} "
            f"points ({gate.words}). The best of {len(told)} was {best}. Give images that are like "
            f"those it will see, or, if this is good enough, max_loss={enough:g} (--max-loss "
            f"{enough:g})"
        )
    network, in_float, figures = found
    facts = {
        "quantised": kind,
        "quantised_float_layers": json.dumps(list(in_float)),
        "quantised_gate": f"{gate.words}; {figures}",
    }
    _write(source, network, facts, to)
    return Quantised(to, figures, tuple(in_float))


def check_max_loss(max_loss: float) -> None:
    """Raises ValueError for anything but points from 0 to 100."""
    if not (isinstance(max_loss, Real) and 0 <= max_loss <= 100):
        raise ValueError(f"Expected `max_loss` in points, 0 to 100. Received: {max_loss!r}")


def quantised_path(path: str | os.PathLike, kind: str) -> Path:
    """The file beside `path` that a smaller one is written into."""
    path = Path(path)
    return path.with_name(f"{path.stem}.{kind}{path.suffix}")


class _Source(NamedTuple):
    """A float file: its network alone, with the input `image`, and what it says."""

    network: Any
    facts: dict[str, str]
    rule: Preprocessing
    dtype: str


def _read(path):
    if not path.exists():
        raise FileNotFoundError(f"Expected an .onnx file. Nothing is at {path}")
    onnx = import_onnx_package("onnx")
    import_onnx_package("onnxruntime")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:
        raise ValueError(f"Expected an .onnx file. {path} cannot be read: {error}") from error
    facts = {entry.key: entry.value for entry in model.metadata_props}
    if "quantised" in facts:
        raise ValueError(
            f"Expected a float file. {path.name} is {facts['quantised']} already: give the one "
            "that it was made from"
        )
    rule = recorded_preprocessing(facts, path.name)
    if rule is None or not isinstance(rule.image_size, int) or rule.resize_to is None:
        raise ValueError(
            f"Expected an .onnx file that says how photos are resized to a square. {path.name} "
            "does not: export it with preprocessing=keras_ms.Preprocessing(image_size=…, "
            "resize_to=…) (keras-ms export --resize-to)"
        )
    network = model
    if rule.inside:
        network = onnx.utils.Extractor(model).extract_model(["view"], ["embedding"])
        network.graph.input[0].name = "image"
        for node in network.graph.node:
            node.input[:] = ["image" if name == "view" else name for name in node.input]
    tensor = network.graph.input[0].type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return _Source(network, facts, rule, dtype)


def _float16(network, gate: GateImages, exact: FloatNetwork, log):
    float16: Any = import_onnx_package("onnxruntime.transformers.float16")
    yield float16.convert_float_to_float16(with_named_nodes(network), keep_io_types=True), ()


def _int8(network, gate: GateImages, exact: FloatNetwork, log):
    """Networks with more and more layers in float, each with their names."""
    network = with_named_nodes(network)
    calibration = gate.calibration.astype(exact.dtype)
    ranges = calibrated(network, calibration)
    in_int8 = quantised(network, ranges)
    yield in_int8, ()
    progress = progress_lines("int8, looking for sensitive layers", log, unit="layers")
    harmful = most_harmful(network, in_int8, calibration, progress)
    count = 1
    while count <= _MOST_IN_FLOAT * len(layers_of(network)):
        yield quantised(network, ranges, harmful[:count]), tuple(harmful[:count])
        count *= 2


def _write(source, network, facts, to):
    onnx = import_onnx_package("onnx")
    quantization: Any = import_onnx_package("onnxruntime.quantization.onnx_model")
    # new nodes are at the end, which onnxruntime reads and the format forbids
    quantization.ONNXModel(network).topological_sort()
    # types and shapes of the float network
    del network.graph.value_info[:]
    if source.rule.inside:
        versions = {one.domain: one.version for one in network.opset_import}
        photo = photo_graph(
            source.rule.image_size,
            source.rule.resize_to,
            dtype=source.dtype,
            opset=versions[""],
            ir_version=network.ir_version,
        )
        network = with_photo_graph(network, photo)
    del network.metadata_props[:]
    onnx.helper.set_model_props(network, source.facts | facts)
    onnx.checker.check_model(network, full_check=True)
    with whole_file(to) as new:
        new.write_bytes(network.SerializeToString())
