"""Validation batches: balanced, finite, the same every time, seen as in evaluation."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_ms
from keras_ms.data.images import evaluation_batches
from keras_ms.data.validation_batches import validation_batches


def image_list(num_classes=5, images_of_each=4, **more):
    count = num_classes * images_of_each
    labels = np.repeat(np.arange(num_classes), images_of_each)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    paths = [f"{number}.png" for number in range(count)]
    return keras_ms.ImageList(
        paths, labels, range(num_classes), ["validation"] * count, images=pixels, **more
    )


def read(dataset):
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def test_every_class_comes_with_its_images_and_every_pass_is_the_same():
    images = image_list()
    dataset = validation_batches(images, classes_per_batch=2, images_per_class=3)
    assert int(dataset.cardinality()) == 3
    first, second = read(dataset), read(dataset)
    other = read(validation_batches(image_list(), classes_per_batch=2, images_per_class=3))
    for (x, y), (x2, y2), (x3, y3) in zip(first, second, other):
        assert len(y) == 6 and sorted(np.unique(y, return_counts=True)[1]) == [3, 3]
        assert (x == x2).all() and (y == y2).all() and (x == x3).all() and (y == y3).all()
    assert set(np.concatenate([y for _, y in first])) == set(range(5))
    # the pixels of evaluation, with their own labels, and no image twice for a class
    known = {x.tobytes(): y for xs, ys in read(evaluation_batches(images)) for x, y in zip(xs, ys)}
    for xs, ys in first:
        assert [known[x.tobytes()] for x in xs] == list(ys)
        assert len({x.tobytes() for x in xs}) == 6


def test_another_seed_gives_other_batches():
    images = image_list(8)
    a, b = (read(validation_batches(images, classes_per_batch=2, images_per_class=2, seed=seed))
            for seed in (0, 1))  # fmt: skip
    assert any((x != y).any() for (_, x), (_, y) in zip(a, b))


def test_rows_and_lists_with_queries():
    rows, labels = np.arange(24.0).reshape(12, 2), np.repeat([7, 8, 9], 4)
    found = read(validation_batches((rows, labels), classes_per_batch=3, images_per_class=2))
    assert len(found) == 1
    assert all(labels[int(row[0]) // 2] == label for row, label in zip(*found[0]))
    masks = {"is_query": np.arange(20) % 2 == 0, "is_gallery": np.arange(20) % 2 == 1}
    dataset = validation_batches(image_list(**masks), classes_per_batch=5, images_per_class=2)
    assert [len(y) for _, y in read(dataset)] == [10]


@pytest.mark.parametrize(
    "source, options, message",
    [
        ([1, 1, 2, 2], {}, "ImageList or a pair"),
        ((np.zeros((4, 2)), [1, 1, 2, 2]), {"image_size": 8}, "has no images"),
        ((np.zeros((4, 2)), [1, 1, 2, 2]), {}, "at least classes_per_batch=16"),
        ((np.zeros((3, 2)), [1, 1, 2]), {"classes_per_batch": 2}, "1 classes have 1"),
    ],
)
def test_what_gives_no_batches_is_explained(source, options, message):
    with pytest.raises(ValueError, match=message):
        validation_batches(source, **options)


def test_the_loss_on_them_is_a_loss():
    images = image_list()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    model.compile("sgd", keras_ms.MultiSimilarityLoss(), metrics=[keras_ms.MinedAnchors()])
    by_class = evaluation_batches(images, batch_size=4)
    assert model.evaluate(by_class, verbose=0, return_dict=True)["loss"] == 0
    balanced = keras_ms.validation_batches(images, classes_per_batch=5, images_per_class=4)
    found = model.evaluate(balanced, verbose=0, return_dict=True)
    assert found["loss"] > 0 and found["mined_anchors"] > 0
    assert model.evaluate(balanced, verbose=0, return_dict=True) == found


@pytest.mark.slow
def test_the_example_of_the_docs_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)
    for was, instead in (
        ("steps_per_epoch=100", "steps_per_epoch=1"), ("epochs=6", "epochs=1"),
        ("draw_glyphs(", "draw_glyphs(images_per_class=5, "),
    ):  # fmt: skip
        assert code.count(was) == 1
        code = code.replace(was, instead)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "callbacks.md", "exec"), names)
    history = names["embedder"].history.history
    assert all(value > 0 for value in history["val_loss"])
    assert (tmp_path / "best.weights.h5").is_file()
