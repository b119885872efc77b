"""The way in which a whole set of images, or of anything else, is embedded."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_ms.pairs.replicas import data_shard, num_data_parts
from keras_ms.terminal.keras_progress import predict_progress, work_progress


def embed_batches(
    model: keras.Model | Callable[[Any], Any],
    batches: Any,
    *,
    total: int | None = None,
    batch_size: int | None = None,
    names: Sequence[str] | np.ndarray | None = None,
    source: str = "the model",
    what: str = "embedding",
    unit: str = "images",
    verbose: int = 0,
    log: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Embeds every item of some batches, in order.

    Args:
        model: a Keras model, whose `predict` embeds, or a function from a batch to its embeddings.
        batches: batches without labels: a finite dataset or any iterable. For a model also an
            array, which it cuts into batches of `batch_size`.
        total: number of items, for the progress and as a check. Defaults to None: not known, and
            no progress is shown.
        batch_size: of a model that embeds an array. Defaults to None: Keras's.
        names: what the items are called, such as their files. With them, embeddings that hold NaN
            or infinity are refused, and the first is named. Defaults to None: they are returned.
        source: what embeds, for messages.
        what, unit, log: as in `keras_ms.terminal.progress.progress_lines`.
        verbose: 1 shows a bar, 2 tells a line every half minute, 0 nothing.

    Returns:
        Array (total, dimension), of the model's type of numbers, float32 as a rule.

    Raises:
        ValueError: an output that is not one row an item, another number of items than `total`, no
            items at all, or values that are not finite.

    Example:

    ```python
    batches = evaluation_batches(images, 224).map(lambda image, label: image)
    embeddings = embed_batches(model, batches, total=len(images))
    ```
    """
    if isinstance(model, keras.Model):
        options: dict[str, Any] = {"verbose": 0}
        if total is not None:
            options |= predict_progress(what, total, verbose, log, unit=unit)
        if num_data_parts() > 1:
            embeddings = _predicted_in_parts(model, batches, batch_size, options)
        else:
            options |= {} if batch_size is None else {"batch_size": batch_size}
            embeddings = model.predict(batches, **options)
        _check_rows(embeddings, total, source)
        if names is not None:
            _check_finite(embeddings, names, source, unit)
        return embeddings
    tell = None if total is None else work_progress(what, verbose, log, unit=unit)
    parts, done = [], 0
    for batch in batches:
        rows = model(batch)
        _check_rows(rows, _num_items(batch), source)
        if names is not None:
            # at once: the first batch of a model that diverged tells it
            _check_finite(rows, names[done:], source, unit, "a batch of ")
        parts.append(rows)
        done += len(rows)
        if tell and total:
            tell(done, total)
    if not parts:
        raise ValueError("Expected items to embed. Received no batch")
    embeddings = np.concatenate(parts)
    _check_rows(embeddings, total, source)
    return embeddings


def batches_without_labels(batches: Any) -> Any:
    """A `tf.data.Dataset` of (images, labels) as one of images alone."""
    return batches.map(lambda images, labels: images)


def _predicted_in_parts(
    model: keras.Model, batches: Any, batch_size: int | None, options: dict[str, Any]
) -> np.ndarray:
    """As `model.predict`, where each batch is divided evenly among devices.

    A batch that they do not divide is filled up with its last item.
    """
    parts = num_data_parts()
    if hasattr(batches, "shape"):
        size = batch_size or 32
        batches = [batches[start : start + size] for start in range(0, len(batches), size)]
    if data_shard() != (0, 1):
        return _predicted_here(model, batches)
    is_item: list[np.ndarray] = []

    def even_batches():
        for batch in batches:
            count = _num_items(batch)
            filling = -count % parts
            is_item.append(np.arange(count + filling) < count)
            yield (keras.tree.map_structure(lambda part: _filled_up(part, filling), batch),)

    rows: Any = model.predict(even_batches(), **options)
    return rows[np.concatenate(is_item)]


def _predicted_here(model: keras.Model, batches: Any) -> np.ndarray:
    """Of several processes each embeds everything by itself: it cannot read what others compute."""
    import jax

    def own_copies(variables):
        return [variable.value.addressable_data(0) for variable in variables]

    @jax.jit
    def embed(trained, others, batch):
        return model.stateless_call(trained, others, batch, training=False)[0]

    weights = own_copies(model.trainable_variables), own_copies(model.non_trainable_variables)
    parts = [embed(*weights, keras.tree.map_structure(np.asarray, batch)) for batch in batches]
    return np.concatenate([np.asarray(rows) for rows in parts])


def _filled_up(part: Any, filling: int) -> np.ndarray:
    part = np.asarray(part)
    return np.pad(part, [(0, filling)] + [(0, 0)] * (part.ndim - 1), mode="edge")


def _num_items(batch: Any) -> int:
    return len(keras.tree.flatten(batch)[0])


def _check_rows(embeddings: Any, count: int | None, source: str) -> None:
    shape = getattr(embeddings, "shape", None)
    if shape is None or len(shape) != 2 or count not in (None, shape[0]):
        raise ValueError(
            f"Expected of {source} one embedding an item, shape "
            f"({'batch' if count is None else count}, dimension). Received: "
            + (type(embeddings).__name__ if shape is None else str(tuple(shape)))
        )


def _check_finite(
    embeddings: np.ndarray, names: Any, source: str, unit: str, among: str = ""
) -> None:
    is_finite = np.isfinite(embeddings).all(axis=1)
    if not is_finite.all():
        first = names[int(np.argmin(is_finite))]
        raise ValueError(
            f"Expected finite embeddings of {source}. Received NaN or infinity for "
            f"{np.count_nonzero(~is_finite)} of {among}{len(embeddings)} {unit}, the first is "
            f"{first}. Look for NaN in the weights (a training that diverged) or a division by a "
            "norm of 0"
        )
