"""Counts are whole numbers everywhere: what is none gets the same words, 4.0 is 4."""

import numpy as np
import pytest

import keras_ms
from keras_ms.evaluation.average_precision import precision_at_r
from keras_ms.evaluation.class_bootstrap import class_bootstrap

ROWS, LABELS = np.eye(8, dtype="float32"), np.repeat([0, 1, 2, 3], 2)
IMAGES = keras_ms.ImageList(
    paths=[str(number) for number in range(8)],
    labels=LABELS,
    class_names=list("abcd"),
    split=["test"] * 8,
    images=np.zeros((8, 6, 6, 1), np.uint8),
)


def batches(**given):
    given = {"classes_per_batch": 2, "images_per_class": 2} | given
    return next(iter(keras_ms.balanced_batches((ROWS, LABELS), **given)))


def validation(**given):
    given = {"classes_per_batch": 2, "images_per_class": 2} | given
    return next(iter(keras_ms.validation_batches((ROWS, LABELS), **given)))


# by the argument's name: what takes it, and a value that it takes
TAKERS = [
    ("classes_per_batch", batches, 2),
    ("images_per_class", batches, 2),
    ("seed", batches, 3),
    ("start_step", batches, 3),
    ("classes_per_batch", validation, 2),
    ("images_per_class", validation, 2),
    ("block_size", lambda **n: keras_ms.recall_at_k(ROWS, LABELS, (1,), **n), 4),
    ("block_size", lambda **n: precision_at_r(ROWS, LABELS, **n), 4),
    ("num_resamples", lambda **n: class_bootstrap(np.ones(8), LABELS, **n), 10),
    ("image_size", lambda **n: keras_ms.evaluation_batches(IMAGES, **n), 6),
    ("resize_to", lambda **n: keras_ms.evaluation_batches(IMAGES, 6, **n), 8),
    ("batch_size", lambda **n: keras_ms.evaluation_batches(IMAGES, 6, **n), 2),
    ("num_steps", keras_ms.HistogramLoss, 5),
    ("num_classes", keras_ms.Proxies, 5),
    ("embedding_size", lambda **n: keras_ms.build_embedder("small", image_size=32, **n), 4),
    ("every_steps", lambda **n: keras_ms.RecallAtK((ROWS, LABELS), **n), 4),
]


@pytest.mark.parametrize("name, take, good", TAKERS, ids=[name for name, *_ in TAKERS])
def test_what_is_no_whole_number_is_refused(name, take, good):
    for value in (2.5, True, "4", float("nan"), float("inf"), -1, np.bool_(True)):
        with pytest.raises(ValueError, match=f"`{name}`.*whole number"):
            take(**{name: value})
    take(**{name: float(good)})
    take(**{name: np.int64(good)})
