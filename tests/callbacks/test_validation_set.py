"""What RecallAtK measures on: data sets of every kind, and those it refuses."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_fits import IMAGES, LABELS, embedder, fit

from keras_ms.callbacks import RecallAtK, validation_set
from keras_ms.evaluation.retrieval import recall_at_k


def test_a_shuffling_dataset_is_measured_rightly():
    model = embedder()
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS[:, None])).shuffle(80).batch(32)
    recall = RecallAtK(dataset)
    fit(model, [recall], epochs=1)
    assert recall.history[-1][1] == recall_at_k(model(IMAGES, training=False), LABELS)


def test_other_datasets():
    class Batches(keras.utils.PyDataset):
        num_batches = 4

        def __getitem__(self, index):
            part = slice(20 * index, 20 * index + 20)
            return IMAGES[part], LABELS[part]

    model, batches = embedder(), Batches()
    same = []
    for dataset in (batches, [batches[i] for i in range(4)], (IMAGES, LABELS)):
        recall = RecallAtK(dataset)
        recall.set_model(model)
        same.append(recall.measure())
    assert same[0] == same[1] == same[2]


def endless():
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(16).repeat()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": endless()}, "repeats forever"),
        ({"dataset": iter([(IMAGES, LABELS)])}, "read once"),
        ({"dataset": (IMAGES, LABELS), "every_steps": 0}, "every_steps"),
    ],
)
def test_bad_options_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecallAtK(**arguments)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "empty"),
        ([IMAGES], "batches"),
        ((IMAGES, LABELS[:5]), "one length"),
        ((IMAGES, np.arange(80)), "none with one"),
    ],
)
def test_bad_datasets_are_explained(dataset, message):
    with pytest.raises(ValueError, match=message):
        fit(embedder(), [RecallAtK(dataset)], epochs=1)


def test_a_model_without_one_embedding_per_image_is_explained():
    model = keras.Sequential([keras.Input((24,)), keras.layers.Reshape((4, 6))])
    recall = RecallAtK((IMAGES, LABELS))
    recall.set_model(model)
    with pytest.raises(ValueError, match=r"Received: \(64, 4, 6\)"):
        recall.measure()


def unknown_length(batches):
    def generator():
        yield from batches

    signature = (tf.TensorSpec((None, 24)), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(generator, output_signature=signature)


BATCHES = [(IMAGES[start : start + 20], LABELS[start : start + 20]) for start in (0, 20, 40, 60)]


class Forever:
    def __iter__(self):
        rng = np.random.default_rng(0)
        while True:
            yield rng.standard_normal((50, 24)).astype("float32"), np.arange(50) % 5


@pytest.mark.parametrize(
    "dataset, message",
    [
        ((IMAGES, {"class": LABELS, "colour": LABELS}), r"several outputs: \['class', 'colour'\]"),
        ((IMAGES, np.eye(8)[LABELS]), r"\(80, 8\).*argmax"),
        ((IMAGES, LABELS.astype("float32")), "integer class ids.*float32"),
        ((IMAGES, np.array(["cat"] * 80)), "number the names"),
        ((IMAGES, np.arange(80)), "every class holds a single image"),
        ((IMAGES, LABELS, LABELS), "a tuple of 3"),
        (lambda: (IMAGES, LABELS), "Received: function"),
    ],
)
def test_what_cannot_be_measured_on_is_refused_at_once(dataset, message):
    with pytest.raises(ValueError, match=message):
        RecallAtK(dataset)


@pytest.mark.parametrize(
    "dataset, message",
    [
        ([(x, np.eye(8, dtype=int)[y]) for x, y in BATCHES], "argmax"),
        ([(x, {"class": y}) for x, y in BATCHES], "several outputs"),
        ([(x, [y, y]) for x, y in BATCHES], "several outputs"),
        ([IMAGES, LABELS], "one tuple of arrays"),
        (unknown_length(itertools.cycle(BATCHES)), "first 4 batches again.*take"),
        (unknown_length(itertools.repeat(BATCHES[0])), "first 1 batches again"),
        (Forever(), "did not end within"),
    ],
)
def test_bad_batches_are_explained_before_the_first_step(dataset, message, monkeypatch):
    monkeypatch.setattr(validation_set, "REFUSE_FROM", 500)
    monkeypatch.setattr(validation_set, "REPEATS_FROM", 100)
    model = embedder()
    with pytest.raises(ValueError, match=message):
        fit(model, [RecallAtK(dataset)], epochs=1)
    assert int(model.optimizer.iterations) == 0


def test_a_long_dataset_of_unknown_length_is_said_to_be_long(monkeypatch):
    monkeypatch.setattr(validation_set, "WARN_FROM", 60)
    recall = RecallAtK(unknown_length(BATCHES))
    recall.set_model(embedder())
    with pytest.warns(UserWarning, match="read 60 images.*does not know its length"):
        recall.measure()
    assert recall.history[0][1].num_queries == 80


def test_datasets_of_other_kinds_give_the_same():
    model, found = embedder(), []
    tensors = tf.constant(IMAGES), tf.constant(LABELS[:, None])
    for dataset in (
        (IMAGES, LABELS),
        tensors,
        (IMAGES.tolist(), LABELS.tolist()),
        unknown_length(BATCHES),
        [(x, y, np.ones(len(y))) for x, y in BATCHES],
    ):
        recall = RecallAtK(dataset)
        recall.set_model(model)
        found.append(recall.measure())
    assert all(recalls == found[0] for recalls in found)


def test_images_that_are_a_dict():
    first, second = keras.Input((12,), name="a"), keras.Input((12,), name="b")
    model = keras.Model({"a": first, "b": second}, keras.layers.Dense(4)(first + second))
    parts = {"a": IMAGES[:, :12], "b": IMAGES[:, 12:]}
    recall = RecallAtK((parts, LABELS), batch_size=32)
    recall.set_model(model)
    assert recall.measure() == recall_at_k(model.predict(parts, verbose=0), LABELS)
