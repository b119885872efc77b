"""What a smaller network costs, on photos: recall alone and beside the float one, cosine, time."""

import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from keras_ms.data.image_list import ImageList
from keras_ms.data.images import evaluation_batches
from keras_ms.export.int8_layers import runner_of
from keras_ms.export.preprocessing import Preprocessing
from keras_ms.terminal.counted import counted

_CALIBRATION_IMAGES, _GATE_IMAGES = 128, 2000
# that share the images at least, where there are as many: among images of one class every
# neighbour is right
_GATE_CLASSES = 20
# of the classes; recall takes more images than ranges of values do
_CALIBRATION_SHARE = 0.25
_BATCH = 16
_MOST_SIMILARITIES = 2**24


class GateImages(NamedTuple):
    """Views of photos as a network is shown them, uint8 (images, size, size, 3).

    Attributes:
        calibration: of the first classes.
        measured: of the other classes, at least two images of each.
        labels: of the measured.
        words: how many of what there are.
    """

    calibration: np.ndarray
    measured: np.ndarray
    labels: np.ndarray
    words: str


class GateFigures(NamedTuple):
    """What was measured of a smaller network.

    Attributes:
        float_recall: Recall@1 of the float network, 0 to 1, as the three that follow.
        recall: of the smaller one, as queries and gallery.
        float_queries: of float queries in its gallery.
        float_gallery: of its queries in a float gallery.
        mean_cosine: of an image's two embeddings.
        low_cosine: that 1 % of the images fall short of.
        float_milliseconds, milliseconds: an image, in batches of 16, on this processor.
        float_bytes, num_bytes: of the files.
    """

    float_recall: float
    recall: float
    float_queries: float
    float_gallery: float
    mean_cosine: float
    low_cosine: float
    float_milliseconds: float
    milliseconds: float
    float_bytes: int
    num_bytes: int

    @property
    def loss(self) -> float:
        """The largest fall of a recall, in points."""
        recalls = self.recall, self.float_queries, self.float_gallery
        return 100 * (self.float_recall - min(recalls))

    def __str__(self) -> str:
        return (
            f"Recall@1 {self.recall:.4f} (float {self.float_recall:.4f}), float queries in its "
            f"gallery {self.float_queries:.4f}, its queries in a float gallery "
            f"{self.float_gallery:.4f}; cosine to float {self.mean_cosine:.4f} in the mean, 1 % "
            f"below {self.low_cosine:.4f}; {self.num_bytes / 1e6:.1f} MB (float "
            f"{self.float_bytes / 1e6:.1f}); {self.milliseconds:.1f} ms an image (float "
            f"{self.float_milliseconds:.1f})"
        )


def gate_images(images: ImageList, rule: Preprocessing) -> GateImages:
    """Divides photos by their classes into those that calibrate and those that measure.

    Args:
        images: with classes; all of them are read, whatever their split.
        rule: `Preprocessing` with both sizes.

    Raises:
        ValueError: too few classes, or too few with two images.
    """
    random = np.random.default_rng(0)
    classes = np.unique(images.labels)
    first = classes[: max(1, round(_CALIBRATION_SHARE * len(classes)))]
    calibrates = np.isin(images.labels, first)
    counts = dict(zip(*(a.tolist() for a in np.unique(images.labels, return_counts=True))))
    paired = [label for label in classes[len(first) :] if counts[label] >= 2]
    if len(paired) < 2:
        raise ValueError(
            "Expected images of at least three classes, two images of each: a quarter of the "
            f"classes calibrates and the others measure. Received: {images.name} with "
            f"{len(classes)} classes of {sorted(counts.values())[:5]}… images"
        )
    # whole classes, as far as they go, so that every query keeps its partners
    most, chosen, num_measured = _GATE_IMAGES // min(len(paired), _GATE_CLASSES), [], 0
    for label in random.permutation(paired):
        rows = np.flatnonzero(images.labels == label)
        if len(rows) > most:
            rows = random.permutation(rows)[:most]
        if num_measured + len(rows) > _GATE_IMAGES:
            break
        chosen.append(rows)
        num_measured += len(rows)
    calibration = np.flatnonzero(calibrates)
    calibration = np.sort(random.permutation(calibration)[:_CALIBRATION_IMAGES])
    measured = np.sort(np.concatenate(chosen))
    words = (
        f"calibrated on {counted(len(calibration), 'image')} of "
        f"{counted(len(first), 'class', 'classes')}, measured on "
        f"{counted(len(measured), 'image')} of "
        f"{counted(len(chosen), 'other class', 'other classes')}"
    )
    return GateImages(
        _views(images, calibration, rule),
        _views(images, measured, rule),
        np.asarray(images.labels)[measured],
        words,
    )


def _views(images, indices, rule):
    part = replace(
        images.take(indices),
        split=np.full(len(indices), "test"),
        is_query=None,
        is_gallery=None,
        apply_exif_orientation=bool(rule.exif_orientation),
    )
    batches = evaluation_batches(part, rule.image_size, resize_to=rule.resize_to, cache=False)
    return np.concatenate([batch.numpy().astype(np.uint8) for batch, _ in batches])


class FloatNetwork(NamedTuple):
    """A float network, what it makes of the measured images, and how large it is."""

    embeddings: np.ndarray
    milliseconds: float
    num_bytes: int
    dtype: str


def run_float(network: Any, images: GateImages, dtype: str) -> FloatNetwork:
    """Embeds the measured images with the float network."""
    embeddings, milliseconds = _embedded(network, images.measured, dtype)
    return FloatNetwork(embeddings, milliseconds, network.ByteSize(), dtype)


def figures_of(network: Any, images: GateImages, exact: FloatNetwork) -> GateFigures:
    """Measures a smaller network.

    Args:
        network: onnx.ModelProto with the input `image`.
        images: of `gate_images`.
        exact: of `run_float`.
    """
    embeddings, milliseconds = _embedded(network, images.measured, exact.dtype)
    # what is not finite is near nothing and like nothing
    ours, theirs = _unit(embeddings), _unit(exact.embeddings)
    cosines = (ours * theirs).sum(axis=1)
    labels = images.labels
    return GateFigures(
        float_recall=mixed_recall(theirs, theirs, labels),
        recall=mixed_recall(ours, ours, labels),
        float_queries=mixed_recall(theirs, ours, labels),
        float_gallery=mixed_recall(ours, theirs, labels),
        mean_cosine=float(cosines.mean()),
        low_cosine=float(np.quantile(cosines, 0.01)),
        float_milliseconds=exact.milliseconds,
        milliseconds=milliseconds,
        float_bytes=exact.num_bytes,
        num_bytes=network.ByteSize(),
    )


def mixed_recall(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray) -> float:
    """Recall@1 of each image as a query in the gallery of all others.

    Args:
        queries: unit-norm embeddings (images, dimension), by one network.
        gallery: of the same images, by another.
        labels: (images,).

    Example:

    >>> mixed_recall(np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]))
    1.0
    """
    hits, rows = 0, max(1, _MOST_SIMILARITIES // len(labels))
    for start in range(0, len(labels), rows):
        similarity = queries[start : start + rows] @ gallery.T
        own = np.arange(len(similarity))
        similarity[own, start + own] = -np.inf
        hits += int((labels[similarity.argmax(axis=1)] == labels[start : start + rows]).sum())
    return hits / len(labels)


def _unit(embeddings):
    rows = np.nan_to_num(embeddings.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _embedded(network, views, dtype):
    """Embeddings, and the median time of an image in milliseconds."""
    run, rows, seconds = runner_of(network), [], []
    for start in range(0, len(views), _BATCH):
        batch = views[start : start + _BATCH].astype(dtype)
        began = time.perf_counter()
        rows.append(run(batch))
        seconds.append((time.perf_counter() - began) / len(batch))
    return np.concatenate(rows), 1000 * float(np.median(seconds))
