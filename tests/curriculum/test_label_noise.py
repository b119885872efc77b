import numpy as np
import pytest

from keras_ms.curriculum.label_noise import class_similarity, corrupt_labels, mix_in_outliers
from keras_ms.data.image_list import ImageList

LABELS = np.array([3] * 50 + [8] * 20 + [11] * 10 + [20] * 1)


@pytest.mark.parametrize("kind", ["symmetric", "pairs"])
def test_the_share_of_each_class_is_corrupted(kind):
    noisy = corrupt_labels(LABELS, 0.4, kind, seed=1)
    np.testing.assert_array_equal(noisy.corrupted, noisy.labels != LABELS)
    found = [noisy.corrupted[LABELS == label].sum() for label in (3, 8, 11, 20)]
    assert found == [20, 8, 4, 0]
    assert set(noisy.labels) <= set(LABELS)
    np.testing.assert_array_equal(noisy.labels, corrupt_labels(LABELS, 0.4, kind, seed=1).labels)
    assert (noisy.corrupted != corrupt_labels(LABELS, 0.4, kind, seed=2).corrupted).any()


def test_symmetric_noise_goes_to_all_other_classes():
    labels = np.repeat(np.arange(4), 3000)
    noisy = corrupt_labels(labels, 1.0)
    counts = np.array([np.bincount(noisy.labels[labels == c], minlength=4) for c in range(4)])
    np.testing.assert_array_equal(np.diag(counts), 0)
    assert (abs(counts[~np.eye(4, dtype=bool)] - 1000) < 150).all()


def test_pairs_go_to_the_most_similar_class():
    features = np.array([[1, 0], [0, 1], [1, 0.1], [0.3, 1]])[np.arange(40) % 4]
    labels = (np.arange(40) % 4) * 10
    similarity = class_similarity(features, labels)
    np.testing.assert_allclose(np.diag(similarity), 1)
    noisy = corrupt_labels(labels, 0.4, "pairs", similarity=similarity)
    partner = {0: 20, 20: 0, 10: 30, 30: 10}
    assert all(
        new == (partner[old] if wrong else old)
        for old, new, wrong in zip(labels, noisy.labels, noisy.corrupted)
    )
    next_one = corrupt_labels(labels, 1.0, "pairs").labels
    np.testing.assert_array_equal(next_one, (labels + 10) % 40)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((LABELS, 1.5), ">= 0 and <= 1"),
        ((LABELS, 0.4, "uniform"), "'symmetric', 'pairs'"),
        ((LABELS * 1.0, 0.4), "integers"),
        ((LABELS[:3], 0.4), "2 classes"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt_labels(*arguments)


def test_wrong_similarities_are_named():
    with pytest.raises(ValueError, match="for kind 'pairs'"):
        corrupt_labels(LABELS, 0.4, similarity=np.eye(4))
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        corrupt_labels(LABELS, 0.4, "pairs", similarity=np.eye(3))


def image_list(name, number, **more):
    labels = np.arange(number) % 4
    split = np.where(labels < 2, "train", "test")
    return ImageList([f"{name}{n}" for n in range(number)], labels, list("abcd"), split, **more)


def test_outliers_follow_the_images():
    images, others = image_list("in", 40), image_list("out", 30)
    mixed = mix_in_outliers(images, others, 0.2, seed=1)
    assert mixed.outlier.sum() == 10 and len(mixed.images) == 50
    added = mixed.images.paths[mixed.outlier]
    assert len(set(added)) == 10 and set(added) <= set(others.paths)
    np.testing.assert_array_equal(mixed.images.paths[:40], images.paths)
    # ImageList itself refuses a class in two splits
    assert mixed.images.class_names == images.class_names
    assert not mix_in_outliers(images, others, 0).outlier.any()


def test_outliers_in_memory():
    pixels = np.zeros((40, 3, 3, 1), np.uint8)
    images = image_list("in", 40, images=pixels)
    others = image_list("out", 30, images=pixels[:30] + 9)
    mixed = mix_in_outliers(images, others, 0.2)
    np.testing.assert_array_equal(mixed.images.images[:, 0, 0, 0], 9 * mixed.outlier)


def test_outliers_that_do_not_fit_are_named():
    images, others = image_list("in", 40), image_list("out", 5)
    with pytest.raises(ValueError, match="takes 10 images. The other set has 5"):
        mix_in_outliers(images, others, 0.2)
    with pytest.raises(ValueError, match="`fraction` >= 0 and < 1"):
        mix_in_outliers(images, others, 1.0)
    with pytest.raises(ValueError, match="both"):
        memory = image_list("out", 30, images=np.zeros((30, 3, 3, 1), np.uint8))
        mix_in_outliers(images, memory, 0.2)
