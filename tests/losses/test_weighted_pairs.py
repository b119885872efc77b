"""WeightedPairLoss, pair_weights and the statistics of pairs in training."""

import itertools
from functools import partial

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from gradients import value_and_gradient

import keras_ms
from keras_ms.pairs.mining import mine_hard, mine_multi_similarity, mine_one_pair_per_class
from keras_ms.weighting import (
    angular_weights,
    contrastive_weights,
    histogram_weights,
    margin_weights,
    multi_similarity_weights,
    triplet_all_weights,
)


def batch(size=24, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    return rng.normal(size=(size, 6)).astype(np.float32), labels


def gradient(loss, embeddings, labels, sample_weight=None):
    return value_and_gradient(loss, labels, embeddings, sample_weight)[1]


PAIRS_OF_LOSSES = [
    (
        keras_ms.MultiSimilarityLoss(),
        keras_ms.WeightedPairLoss(
            multi_similarity_weights, partial(mine_multi_similarity, epsilon=0.1)
        ),
    ),
    (
        keras_ms.ContrastiveLoss(0.2),
        keras_ms.WeightedPairLoss(partial(contrastive_weights, threshold=0.2)),
    ),
    (
        keras_ms.TripletLoss(0.3, "all"),
        keras_ms.WeightedPairLoss(partial(triplet_all_weights, margin=0.3)),
    ),
]


@pytest.mark.parametrize("loss, weighted", PAIRS_OF_LOSSES)
def test_a_loss_is_the_weighting_of_its_pairs(loss, weighted):
    embeddings, labels = batch()
    weights = np.random.default_rng(1).random(24).astype(np.float32)
    expected = gradient(loss, embeddings, labels, weights)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(
        gradient(weighted, embeddings, labels, weights), expected, rtol=1e-5, atol=1e-8
    )


def test_a_weighting_gets_the_dimension_it_asks_for():
    embeddings, labels = batch()
    expected = keras_ms.pair_weights(keras_ms.MarginLoss(), embeddings, labels).weights
    for dimension, equal in (({}, True), ({"dimension": 128}, False)):
        loss = keras_ms.WeightedPairLoss(partial(margin_weights, **dimension))
        found = keras_ms.pair_weights(loss, embeddings, labels).weights
        assert np.allclose(found, expected, rtol=1e-6, atol=0) == equal


def test_any_miner_goes_with_any_weighting():
    embeddings, labels = batch()
    loss = keras_ms.WeightedPairLoss(partial(contrastive_weights, threshold=-2.0), mine_hard)
    found = keras_ms.pair_weights(loss, embeddings, labels)
    usable = np.array([(labels == label).sum() > 1 for label in labels])
    np.testing.assert_array_equal(found.num_positives, usable)
    np.testing.assert_array_equal(found.num_negatives, usable)
    expected = (found.negative.astype(float) - found.positive) / 24
    np.testing.assert_allclose(found.weights, expected, atol=1e-8)


@pytest.mark.parametrize("loss, weighted", PAIRS_OF_LOSSES)
def test_saved_and_restored(loss, weighted):
    again = keras.losses.deserialize(keras.losses.serialize(weighted))
    embeddings, labels = batch()
    np.testing.assert_array_equal(
        gradient(again, embeddings, labels), gradient(weighted, embeddings, labels)
    )
    assert again.get_config() == weighted.get_config()


def test_functions_that_keras_does_not_know_are_refused():
    loss = keras_ms.WeightedPairLoss(lambda pairs: -keras.ops.cast(pairs.positive, "float32"))
    with pytest.raises(ValueError, match="register_keras_serializable"):
        loss.get_config()
    with pytest.raises(ValueError, match="`miner` to be a function. Received: 'hard'"):
        keras_ms.WeightedPairLoss(contrastive_weights, "hard")


@pytest.mark.parametrize("weighting", [angular_weights, partial(histogram_weights, num_steps=9)])
def test_weightings_of_a_whole_batch_are_refused(weighting):
    with pytest.raises(ValueError, match="takes pairs alone.*_weights.*whole batch"):
        keras_ms.WeightedPairLoss(weighting)
    keras_ms.WeightedPairLoss(lambda pairs, upstream=1.0: pairs.similarity)


def test_a_pair_a_class_is_of_a_batch_with_itself():
    inputs, labels = batch(size=8)
    loss = keras_ms.WeightedPairLoss(contrastive_weights, mine_one_pair_per_class, block_size=4)
    with pytest.raises(ValueError, match="4 anchors and 8 candidates.*block_size=None"):
        loss(labels, inputs)


def test_pair_weights_are_the_oracles():
    embeddings, labels = batch()
    weights = np.random.default_rng(1).random(24)
    similarity = oracles.similarities(embeddings)
    kept = oracles.mine(similarity, labels, 0.1)
    expected = oracles.multi_similarity_weights(similarity, kept, 2, 40, 0.5)
    loss = keras_ms.MultiSimilarityLoss(dtype="float64")
    found = keras_ms.pair_weights(loss, embeddings, labels, weights)
    np.testing.assert_allclose(found.weights, weights[:, None] * expected / 24, atol=1e-12)
    np.testing.assert_allclose(found.similarity, similarity, atol=1e-12)
    assert found.num_positives.tolist() == [len(positives) for positives in kept[0]]
    assert found.num_negatives.tolist() == [len(negatives) for negatives in kept[1]]
    summed = keras_ms.MultiSimilarityLoss(dtype="float64", reduction="sum")
    np.testing.assert_allclose(
        keras_ms.pair_weights(summed, embeddings, labels).weights, expected, atol=1e-12
    )


def test_pair_weights_of_a_composite_add_up():
    embeddings, labels = batch()
    parts = keras_ms.MultiSimilarityLoss(), keras_ms.ContrastiveLoss()
    first, second = (keras_ms.pair_weights(part, embeddings, labels) for part in parts)
    found = keras_ms.pair_weights(keras_ms.CompositeLoss(parts, [2.0, 0.5]), embeddings, labels)
    np.testing.assert_allclose(found.weights, 2 * first.weights + 0.5 * second.weights)
    np.testing.assert_array_equal(found.positive, first.positive | second.positive)
    with pytest.raises(ValueError, match="do not add up"):
        keras_ms.pair_weights(
            keras_ms.CompositeLoss([keras_ms.MultiSimilarityLoss(), keras_ms.NPairLoss()]),
            embeddings,
            labels,
        )


@pytest.mark.parametrize(
    "loss, embeddings, labels, message",
    [
        (keras.losses.MeanSquaredError(), np.ones((4, 2)), [0, 0, 1, 1], "pair-based loss"),
        (keras_ms.ContrastiveLoss(), np.ones((4, 2)), [0, 0, 1], "one label per embedding"),
        (keras_ms.ContrastiveLoss(), np.full((2, 2), np.nan), [0, 0], "finite embeddings"),
    ],
)
def test_pair_weights_of_wrong_inputs(loss, embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        keras_ms.pair_weights(loss, embeddings, labels)


def test_statistics_are_logged_while_training():
    inputs, labels = batch(size=40)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    loss = keras_ms.MultiSimilarityLoss()
    model.compile(keras.optimizers.SGD(0.05), loss)
    callback = keras_ms.PairStatistics(loss, [(inputs, labels), (inputs[:20], labels[:20])])
    history = model.fit(inputs, labels, batch_size=40, epochs=2, verbose=0, callbacks=[callback])
    per_batch = [
        keras_ms.pair_weights(loss, model.predict(inputs[:size], verbose=0), labels[:size])
        for size in (40, 20)
    ]
    assert history.history["mined_positives"][-1] == pytest.approx(
        np.mean([found.num_positives.mean() for found in per_batch])
    )
    same = labels[:, None] == labels[None, :]
    similarity = per_batch[0].similarity
    second = per_batch[1].similarity
    assert history.history["negative_similarity"][-1] == pytest.approx(
        (similarity[~same].mean() + second[~same[:20, :20]].mean()) / 2, abs=1e-6
    )
    assert set(history.history) == {
        "loss",
        "mined_positives",
        "mined_negatives",
        "weighted_positives",
        "weighted_negatives",
        "positive_similarity",
        "negative_similarity",
    }


def pairs(number=None):
    """Batches (images, labels) of a dataset; without a number, endless ones of unknown length."""

    def generate():
        for _ in itertools.count() if number is None else range(number):
            yield np.ones((4, 6), "float32"), np.array([0, 0, 1, 1])

    kinds = (tf.TensorSpec((4, 6), tf.float32), tf.TensorSpec((4,), tf.int64))
    return tf.data.Dataset.from_generator(generate, output_signature=kinds)


class Readable:
    """Batches that can be read again, and tell nothing of their number."""

    def __init__(self, *batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


ROWS = np.ones((4, 6), "float32")
CLASSES = np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "are empty"),
        ([ROWS], r"\(images, labels\).*ndarray"),
        ((ROWS, CLASSES), r"a list of pairs.*a batch of type numpy.ndarray"),
        ([(ROWS,)], "a batch of type tuple and length 1"),
        (ROWS, "Received: numpy.ndarray"),
        (3, "Received: int"),
        ((pair for pair in [(ROWS, CLASSES)]), "generator, which can be read once"),
        (pairs(2).apply(tf.data.experimental.assert_cardinality(2)).repeat(), r"forever.*\.take"),
        (tf.data.Dataset.from_tensors(ROWS), "a batch of type"),
        (keras_ms.balanced_batches((ROWS, CLASSES), classes_per_batch=2, images_per_class=2),
         "repeats forever"),
    ],
)  # fmt: skip
def test_batches_that_cannot_be_measured_are_refused_before_training(batches, message):
    with pytest.raises(ValueError, match=message):
        keras_ms.PairStatistics(keras_ms.ContrastiveLoss(), batches)


def test_what_only_reading_tells_is_refused_then(monkeypatch):
    monkeypatch.setattr("keras_ms.losses.pair_weights._MOST_BATCHES", 5)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    for batches, message in (
        (pairs(), "did not end within 5 batches"),
        (Readable(), "are empty"),
        (Readable(ROWS), "a batch of type numpy.ndarray"),
    ):
        callback = keras_ms.PairStatistics(keras_ms.ContrastiveLoss(), batches)
        callback.set_model(model)
        with pytest.raises(ValueError, match=message):
            callback.measure()


@pytest.mark.parametrize(
    "loss",
    ["contrastive", keras.losses.MeanSquaredError(), keras_ms.ProxyNCALoss(),
     keras_ms.CompositeLoss([keras_ms.ContrastiveLoss(), keras.losses.MeanSquaredError()])],
)  # fmt: skip
def test_statistics_of_another_kind_of_loss_are_refused_before_training(loss):
    with pytest.raises(ValueError, match="Expected a pair-based loss"):
        keras_ms.PairStatistics(loss, [(ROWS, CLASSES)])


def test_what_can_be_read_again_is():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    composite = keras_ms.CompositeLoss([keras_ms.ContrastiveLoss(), keras_ms.MultiSimilarityLoss()])
    expected = None
    for batches in ([(ROWS, CLASSES)] * 3, Readable(*[(ROWS, CLASSES)] * 3), pairs(3)):
        callback = keras_ms.PairStatistics(composite, batches)
        callback.set_model(model)
        expected = expected or callback.measure()
        assert callback.measure() == callback.measure() == pytest.approx(expected)
