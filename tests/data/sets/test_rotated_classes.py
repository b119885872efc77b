"""Turned characters as classes of their own."""

import numpy as np
import pytest

from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.rotated_classes import rotated_classes


def characters(**changes):
    pictures = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 1), dtype="uint8")
    given = {
        "paths": list("abcdef"),
        "labels": [0, 0, 1, 1, 2, 2],
        "class_names": ("x", "y", "z"),
        "split": ["train"] * 4 + ["test"] * 2,
        "images": pictures,
    }
    return ImageList(**given | changes)


def test_training_classes_come_four_times_and_the_others_once():
    before = characters()
    after = rotated_classes(before)
    assert after.counts() == {"train": (8, 16), "test": (1, 2)}
    assert (after.images[:6] == before.images).all() and (after.labels[:6] == before.labels).all()
    for image, label in ((0, 0), (3, 1)):
        for turn in (1, 2, 3):
            place = 6 + (turn - 1) * 4 + image
            turned = np.rot90(before.images[image, :, :, 0], turn)
            assert (after.images[place, :, :, 0] == turned).all()
            name = after.class_names[after.labels[place]]
            assert name == f"{'xyz'[label]} turned {90 * turn}"


def test_queries_stay_queries():
    queries = [True] * 5 + [False]
    after = rotated_classes(characters(is_query=queries, is_gallery=[True] * 4 + [False, True]))
    assert after.is_query.tolist() == queries + [True] * 12
    assert after.is_gallery.tolist() == [True] * 4 + [False, True] + [True] * 12


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": None}, "held in memory.*read from files"),
        ({"images": np.zeros((6, 5, 4, 1), "uint8")}, r"square pictures.*\(5, 4, 1\)"),
        ({"split": ["test"] * 6}, "training classes to turn"),
    ],
)
def test_what_cannot_be_turned_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rotated_classes(characters(**changes))
