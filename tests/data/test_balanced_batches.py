import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_ms.data import balanced_indices as indices_module
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.balanced_indices import balanced_indices
from keras_ms.data.image_list import ImageList


def take(iterable, number):
    return list(itertools.islice(iterable, number))


@pytest.fixture
def birds(tmp_path):
    """24 small JPEGs of 6 classes, no two of one size."""
    paths, random = [], np.random.default_rng(0)
    for number in range(24):
        paths.append(str(tmp_path / f"{number}.jpg"))
        pixels = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((50 + number, 40), Image.BILINEAR).save(paths[-1])
    return ImageList(paths, np.repeat(np.arange(6), 4), range(6), ["train"] * 24)


@pytest.fixture
def characters():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 1), dtype=np.uint8)
    names = [str(number) for number in range(24)]
    return ImageList(names, np.repeat(np.arange(6), 4), range(6), ["train"] * 24, pixels)


def assert_used_evenly(sequence, cards):
    """Every card once before any twice: at any moment two counts differ by at most one."""
    counts = dict.fromkeys(cards, 0)
    for card in sequence:
        counts[card] += 1
        # a card may only be used when it is among the least used
        assert counts[card] - 1 == min(list(counts.values()) + [counts[card] - 1])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 13), min_size=2, max_size=9),
    st.integers(2, 9),
    st.integers(2, 6),
    st.integers(0, 2**63 - 1),
)
def test_rules_of_the_stream(sizes, classes_per_batch, images_per_class, seed):
    classes_per_batch = min(classes_per_batch, len(sizes))
    random = np.random.default_rng(seed)
    ids = random.choice(10**6, len(sizes), replace=False) + 2**40
    labels = random.permutation(np.repeat(ids, sizes))
    stream = balanced_indices(labels, classes_per_batch, images_per_class, seed=seed)
    batches = take(stream, 40)
    class_order, images = [], {label: [] for label in ids}
    for batch in batches:
        assert batch.shape == (classes_per_batch * images_per_class,) and batch.dtype == np.int64
        groups = batch.reshape(classes_per_batch, images_per_class)
        drawn = labels[groups]
        assert (drawn == drawn[:, :1]).all()
        assert len(set(drawn[:, 0])) == classes_per_batch
        for label, group in zip(drawn[:, 0], groups):
            class_order.append(label)
            images[label].extend(group)
            # repeated in one batch only where the class is too small, then evenly
            members = np.flatnonzero(labels == label)
            counts = [np.count_nonzero(group == member) for member in members]
            assert max(counts) - min(counts) <= 1
    assert_used_evenly(class_order, ids)
    for label in ids:
        assert_used_evenly(images[label], np.flatnonzero(labels == label))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=3, max_size=8), st.integers(0, 60))
def test_any_step_is_reached_directly(sizes, start_step):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    whole = take(balanced_indices(labels, 3, 4, seed=5), start_step + 10)
    later = take(balanced_indices(labels, 3, 4, seed=5, start_step=start_step), 10)
    assert (np.array(whole[start_step:]) == np.array(later)).all()


def test_seeds_and_rounds_differ():
    labels = np.repeat(np.arange(10), 10)
    first, again, other = (
        np.array(take(balanced_indices(labels, 5, 5, seed=seed), 40)) for seed in (1, 1, 2)
    )
    assert (first == again).all() and (first != other).any()
    # 4 batches use every image once: the next 4 do so in another order
    assert sorted(first[:4].ravel()) == list(range(100)) == sorted(first[4:8].ravel())
    assert (first[:4] != first[4:8]).any()
    # classes of one size are not shuffled alike
    groups = first.reshape(-1, 5)
    assert len({tuple(group - group.min() // 10 * 10) for group in groups[:20]}) > 10


def test_many_classes_start_at_once_and_steps_are_not_replayed(monkeypatch):
    random = np.random.default_rng(0)
    extra = random.integers(0, 11318, 60000 - 2 * 11318)
    labels = random.permutation(np.concatenate([np.arange(11318), np.arange(11318), extra]))
    assert len(labels) == 60000
    indices, drawn = next(iter(balanced_batches(labels)))
    assert (drawn.numpy() == labels[indices.numpy()]).all()

    generators = []

    def counted(*where):
        generators.append(where)
        return random_numbers(*where)

    random_numbers = indices_module.random_numbers
    monkeypatch.setattr(indices_module, "random_numbers", counted)
    for start_step in (0, 100_000):
        generators.clear()
        next(balanced_indices(labels, 16, 5, start_step=start_step))
        # of the classes, and of the images of the 16 classes drawn: not of 11,318, nor of each step
        assert len(generators) == 17


@pytest.mark.parametrize(
    "labels, options, message",
    [
        ([0.0, 0.0, 1.0, 1.0], {}, "integers"),
        (["a", "a", "b", "b"], {}, "integers"),
        ([[0, 5], [0, 5], [1, 5], [1, 5]], {}, "shape \\(4, 2\\)"),
        ([0, 0, 1, 1], {"classes_per_batch": 3}, "classes_per_batch=3 classes. Received: 2. Use"),
        ([0, 0, 1, 1, 2], {}, "1 classes have 1, the first is class 2"),
        ([0, 0, 1, 1], {"images_per_class": 1}, "`images_per_class` of at least 2"),
        ([0, 0, 1, 1], {"classes_per_batch": 1}, "`classes_per_batch` of at least 2"),
        ([0, 0, 1, 1], {"classes_per_batch": 2.5}, "`classes_per_batch`"),
        ([0, 0, 1, 1], {"seed": -1}, "`seed`"),
        ([0, 0, 1, 1], {"start_step": -1}, "`start_step`"),
        ([0, 0, 1, 1], {"shard": (2, 2)}, "`shard"),
        ([0, 0, 1, 1], {"shard": (0, 3)}, "divides"),
        ([0, 0, 1, 1], {"image_size": 8}, "ImageList"),
        ((np.zeros((3, 2)), [0, 0, 1, 1]), {}, "shape \\(3, 2\\)"),
        ((np.zeros((4, 2)), [0, 0, 1, 1], None), {}, "pair"),
    ],
)
def test_sources_and_settings_that_cannot_work_are_refused(labels, options, message):
    with pytest.raises(ValueError, match=message):
        balanced_batches(labels, **{"classes_per_batch": 2, "images_per_class": 2, **options})


def test_image_settings_that_cannot_work_are_refused(birds):
    for options in (
        {"crop_scale": (0, 1)},
        {"crop_scale": (0.5, 1.5)},
        {"crop_scale": 0.3},
        {"crop_ratio": (2, 1)},
        {"crop_ratio": (1, 2, 3)},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            balanced_batches(birds, classes_per_batch=2, images_per_class=2, **options)


def test_label_array_gives_indices():
    labels = np.array([2**24, 2**24 + 1, 2**40]).repeat(4)
    dataset = balanced_batches(labels, classes_per_batch=2, images_per_class=3, seed=4)
    expected = take(balanced_indices(labels, 2, 3, seed=4), 5)
    for (indices, drawn), batch in zip(dataset, expected):
        assert indices.numpy().tolist() == batch.tolist()
        assert drawn.dtype == tf.int64 and drawn.numpy().tolist() == labels[batch].tolist()
    assert dataset.element_spec[0].shape == (6,) and dataset.element_spec[1].shape == (6,)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_feature_rows_and_views(dtype):
    labels = np.repeat(np.arange(4), 5)
    features = np.random.default_rng(0).normal(size=(3, 20, 7)).astype(dtype)
    options = {"classes_per_batch": 2, "images_per_class": 3, "seed": 1}
    indices = take(balanced_indices(labels, 2, 3, seed=1), 30)
    for batch, (rows, drawn) in zip(indices, balanced_batches((features[0], labels), **options)):
        assert rows.dtype == dtype and (rows.numpy() == features[0][batch]).all()
        assert (drawn.numpy() == labels[batch]).all()
    used = []
    dataset = balanced_batches((features, labels), views=True, **options)
    for batch, (rows, _) in zip(indices, dataset):
        same = (rows.numpy() == features[:, batch]).all(-1)
        assert (same.sum(0) == 1).all()
        used.extend(same.argmax(0))
    # each of the three views about as often
    assert np.bincount(used).min() > len(used) / 3 * 0.7


def noise(images, seed):
    shift = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed, maxval=50.0)
    return tf.cast(images, tf.float32) + shift


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "cached files", "memory"])
def test_augmented_stream_resumes_and_shards_exactly(birds, characters, kind):
    source = characters if kind == "memory" else birds
    options = {
        "classes_per_batch": 4,
        "images_per_class": 3,
        "image_size": 16,
        "seed": 9,
        "cache": kind == "cached files",
    }
    whole = take(balanced_batches(source, **options), 5)
    images, labels = whole[3]
    assert images.shape == (12, 16, 16, 3) and images.dtype == tf.float32
    assert 0 <= images.numpy().min() and images.numpy().max() <= 255
    later = take(balanced_batches(source, start_step=3, **options), 2)
    for (a, la), (b, lb) in zip(whole[3:], later):
        assert (a.numpy() == b.numpy()).all() and (la.numpy() == lb.numpy()).all()
    shards = [take(balanced_batches(source, shard=(i, 2), **options), 4)[3] for i in range(2)]
    assert shards[0][0].shape == (6, 16, 16, 3)
    assert (np.concatenate([x for x, _ in shards]) == images.numpy()).all()
    assert (np.concatenate([y for _, y in shards]) == labels.numpy()).all()
    # the augmentation differs from step to step and with the seed
    other = take(balanced_batches(source, **{**options, "seed": 10}), 4)[3]
    assert (other[0].numpy() != images.numpy()).any()


def test_distortion_is_seeded_by_step_and_shard(characters):
    options = {"classes_per_batch": 4, "images_per_class": 3, "crop_scale": None, "flip": False}
    options["distort"] = noise
    whole = take(balanced_batches(characters, **options), 4)
    later = take(balanced_batches(characters, start_step=2, **options), 2)
    for (a, _), (b, _) in zip(whole[2:], later):
        assert (a.numpy() == b.numpy()).all()
    assert whole[0][0].shape == (12, 12, 12, 3)
    plain = take(balanced_batches(characters, **{**options, "distort": None}), 2)
    shifts = [(a - b).numpy()[:, 0, 0, 0] for (a, _), (b, _) in zip(whole, plain)]
    assert (shifts[0] != shifts[1]).all() and len(set(shifts[0].tolist())) == 12


def test_plain_views_are_the_images(characters):
    options = {"classes_per_batch": 3, "images_per_class": 2, "crop_scale": None, "flip": False}
    expected = take(balanced_indices(characters.labels, 3, 2), 6)
    for batch, (images, labels) in zip(expected, balanced_batches(characters, **options)):
        assert (images.numpy() == characters.images[batch]).all()
        assert (labels.numpy() == characters.labels[batch]).all()


@pytest.mark.slow
def test_cached_and_uncached_files_agree(birds):
    options = {"classes_per_batch": 4, "images_per_class": 3, "image_size": 32}
    read, cached = (take(balanced_batches(birds, cache=c, **options), 3) for c in (False, True))
    for (a, la), (b, lb) in zip(read, cached):
        assert (la.numpy() == lb.numpy()).all()
        # JPEG crops have their colours interpolated with fewer neighbours at the border
        assert np.abs(a.numpy() - b.numpy()).mean() < 1.0


def test_each_path_goes_with_its_label(tmp_path):
    paths = []
    for number in range(12):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.full((20, 20, 3), number * 20, np.uint8)).save(paths[-1])
    images = ImageList(paths, np.repeat(np.arange(4), 3), range(4), ["train"] * 12)
    for cache in (False, True):
        dataset = balanced_batches(
            images, classes_per_batch=3, images_per_class=2, image_size=8, cache=cache
        )
        for views, labels in dataset.take(4):
            assert (np.round(views[:, 4, 4, 0] / 20) // 3 == labels.numpy()).all()


def test_damaged_file_is_named_while_training(birds):
    with open(birds.paths[5], "wb") as file:
        file.write(b"a text")
    with pytest.raises(tf.errors.InvalidArgumentError, match="5.jpg: not an image"):
        take(balanced_batches(birds, classes_per_batch=6, images_per_class=4, cache=False), 1)


def test_several_splits_at_once_are_warned_of(characters, caplog):
    split = np.where(characters.labels < 3, "train", "test")
    mixed = ImageList(characters.paths, characters.labels, range(6), split, characters.images)
    balanced_batches(mixed, classes_per_batch=2, images_per_class=2)
    assert 'subset("train")' in caplog.text
