"""Labels of every kind and shape: taken exactly, or refused by an error that says what arrived."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_ms
from keras_ms.pairs.class_ids import checked_class_ids

IDS = np.arange(8, dtype="int32") % 4
ONE_HOT = np.eye(4, dtype="int32")[IDS]
IMAGES = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")


def embedder():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])


def pairs(**options):
    model = embedder()
    model.compile("sgd", keras_ms.MultiSimilarityLoss(), **options)
    return model


def several(**options):
    model = embedder()
    loss = keras_ms.CompositeLoss([keras_ms.TripletLoss(), keras_ms.NPairLoss()])
    model.compile("sgd", loss, **options)
    return model


def proxies(**options):
    model = keras.Sequential([embedder(), keras_ms.Proxies(4)])
    model.compile("sgd", keras_ms.ProxyNCALoss(), **options)
    return model


def memory(**options):
    model = keras_ms.CrossBatchMemory(embedder(), keras_ms.ContrastiveLoss(), memory_size=8)
    model.compile("sgd", **options)
    return model


class NoLabels(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.sum(y_pred, axis=-1)


def metric(**options):
    model = embedder()
    model.compile("sgd", NoLabels(), metrics=[keras_ms.MinedAnchors()], **options)
    return model


def fit(model, labels, size, shape):
    """One epoch of batches whose labels have a static shape that is open."""
    batches = tf.data.Dataset.from_generator(
        lambda: ((IMAGES[i : i + size], labels(i, size)) for i in range(0, 8, size)),
        output_signature=(
            tf.TensorSpec((None, 6), tf.float32),
            tf.TensorSpec(shape, tf.int32),
        ),
    )
    return model.fit(batches, shuffle=False, verbose=0).history["loss"][0]


def of(array):
    return lambda start, size: array[start : start + size]


WRONG = {
    "one-hot, open shape": (of(ONE_HOT), 8, (None, None)),
    "one-hot, one image": (of(ONE_HOT), 1, (None, None)),
    "one-hot, unknown rank": (of(ONE_HOT), 1, None),
    "fewer labels": (lambda *_: IDS[:1], 8, (None,)),
    "as many numbers, of another shape": (lambda *_: ONE_HOT[:2], 8, (None, None)),
}


# of the others, which have the same check, one kind of each error
FEW = ("one-hot, open shape", "fewer labels")


@pytest.mark.parametrize(
    "model, case",
    [
        pytest.param(
            model,
            case,
            marks=() if model is pairs or case in FEW else [pytest.mark.slow, pytest.mark.release],
        )
        for model in (pairs, several, proxies, memory, metric)
        for case in WRONG
    ],
)
def test_labels_that_are_not_one_id_an_image_stop_the_step(model, case):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as found:
        fit(model(jit_compile=False), *WRONG[case])
    assert "Expected class ids of shape (batch,) or (batch, 1)" in str(found.value)
    assert "For one-hot labels pass argmax" in str(found.value)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("case", WRONG)
def test_they_stop_a_step_that_xla_compiles_by_the_name_of_what_fails(case):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as found:
        fit(pairs(jit_compile=True), *WRONG[case])
    assert "class-ids_one_for_each_image_and_of_one-hot_labels_the_argmax" in str(found.value)


@pytest.mark.parametrize(
    "jit_compile", [pytest.param(True, marks=[pytest.mark.slow, pytest.mark.release]), False]
)
def test_right_labels_of_any_open_shape_train(jit_compile):
    column = IDS[:, None]
    for labels, shape in ((IDS, (None,)), (column, (None, None)), (column, None), (IDS, None)):
        assert np.isfinite(fit(pairs(jit_compile=jit_compile), of(labels), 8, shape))


@pytest.mark.slow
@pytest.mark.release
def test_hdml_refuses_them_too():
    head = keras_ms.build_embedder(image_size=32, embedding_size=4)
    model = keras_ms.HDML(head, classes=4)
    model.compile()
    images = np.random.default_rng(0).random((8, 32, 32, 3)).astype("float32")
    batches = tf.data.Dataset.from_generator(
        lambda: iter([(images, ONE_HOT)]),
        output_signature=(
            tf.TensorSpec((None, 32, 32, 3), tf.float32),
            tf.TensorSpec((None, None), tf.int32),
        ),
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected class ids"):
        model.fit(batches, shuffle=False, verbose=0)


@pytest.mark.parametrize(
    "labels, message",
    [
        (tf.ragged.constant([[1, 2], [], [2], [1], [3], [1], [2], [1]]), "a RaggedTensor of shape"),
        (tf.sparse.from_dense(ONE_HOT), "a SparseTensor of shape"),
        ([[1], [1, 2], [3], [4], [5], [6], [7], [8]], "lists of different lengths"),
        ([0, None] * 4, "dtype object"),
        (np.array([0, "a"] * 4, dtype=object), "dtype object"),
        ([float("nan")] * 8, "dtype float64"),
        (IDS + 0.5, "dtype float64"),
        (IDS.astype("complex64"), "dtype complex64"),
        (IDS > 1, "dtype bool"),
        (tf.constant(["a"] * 8), "dtype string"),
        (ONE_HOT, r"shape=\(8, 4\). For one-hot labels pass argmax"),
        (IDS[:7], "7 labels and 8 embeddings"),
    ],
)
def test_other_kinds_are_refused(labels, message):
    for loss in (keras_ms.MultiSimilarityLoss(), keras_ms.ProxyNCALoss()):
        with pytest.raises(ValueError, match=message):
            loss(labels, IMAGES)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_ids_come_back_as_they_are(dtype):
    ids = np.array([0, 1, np.iinfo(dtype).max], dtype)
    for given in (ids, ids[:, None], tf.constant(ids)):
        np.testing.assert_array_equal(checked_class_ids(given, np.zeros((3, 2))), ids)
