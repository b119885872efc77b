"""What a run trains on, as its settings say."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from keras_ms.data.distortions import distort
from keras_ms.data.image_list import ImageList
from keras_ms.run.data import run_data
from keras_ms.run.settings import Settings
from keras_ms.run.views import _DISTORTION, check_augmentation


@pytest.fixture
def squares():
    """Two classes of eight equal grey pictures with a dark square, and two to test."""
    images = np.full((32, 24, 24, 1), 255, np.uint8)
    images[:, 8:16, 8:16] = 0
    return ImageList(
        paths=[str(number) for number in range(32)],
        labels=np.arange(32) // 8,
        class_names=["a", "b", "c", "d"],
        split=["train"] * 16 + ["test"] * 16,
        images=images,
    )


def mean_change(squares, tmp_path, **settings):
    """How far the pictures of a batch are from the drawn ones, on average."""
    given = Settings.from_values(
        image_size=24, classes_per_batch=2, images_per_class=8, runs_folder=str(tmp_path),
        augmentation="distort", **settings,
    )  # fmt: skip
    data = run_data(given, squares, features_model=None, log=print, verbose=0)
    batch, _ = next(iter(data.training(start_step=0)))
    return np.abs(batch.numpy() - squares.images[:16].astype(float)).mean()


@pytest.mark.slow
@pytest.mark.release
def test_distortion_has_a_strength(squares, tmp_path):
    none, usual, strong = (mean_change(squares, tmp_path, distortion=s) for s in (0.0, 1.0, 2.5))
    assert none < 1e-3
    assert 1 < usual < 0.75 * strong
    assert usual == mean_change(squares, tmp_path)
    for setting in ({"elastic": 0.05}, {"strokes": 0.8}):
        assert mean_change(squares, tmp_path, distortion=0.0, **setting) > 0.5


def test_a_strength_of_1_is_that_of_distort_itself():
    """Nothing but the strength tells the views of a run from those of `distort`."""
    names = inspect.signature(distort).parameters
    assert _DISTORTION == {name: names[name].default for name in _DISTORTION}
    images = tf.random.stateless_uniform((3, 24, 24, 1), (0, 1), maxval=255.0)
    np.testing.assert_array_equal(distort(images, (0, 1), **_DISTORTION), distort(images, (0, 1)))


@pytest.mark.parametrize("setting", [{"distortion": 2.0}, {"elastic": 0.1}, {"strokes": 0.5}])
def test_distortions_are_refused_where_auto_distorts_nothing(squares, setting):
    settings = Settings.from_values(data_dir="drawings", **setting)
    check_augmentation(settings, squares)  # in memory, as Omniglot: distorted
    check_augmentation(Settings.from_values(data_dir="drawings"), replace(squares, images=None))
    with pytest.raises(ValueError, match="squares is not distorted.*--augmentation distort"):
        check_augmentation(settings, replace(squares, images=None, name="squares"))
    check_augmentation(settings, replace(squares, name="glyphs"))


def test_strength_is_refused_where_nothing_is_distorted():
    with pytest.raises(ValueError, match="distortion.*unset with augmentation=crop"):
        Settings.from_values(augmentation="crop", distortion=2.0)
    for name in ("elastic", "strokes"):
        with pytest.raises(ValueError, match=f"{name}.*unset with augmentation=crop"):
            Settings.from_values(augmentation="crop", **{name: 0.1})
    with pytest.raises(ValueError, match="distortion.*at most 5"):
        Settings.from_values(distortion=6.0)


@pytest.mark.parametrize("views", [1, 2])
def test_a_head_is_trained_on_views_of_features(squares, tmp_path, monkeypatch, views):
    given = Settings.from_values(
        image_size=24, classes_per_batch=2, images_per_class=8, runs_folder=str(tmp_path),
        augmentation="distort", freeze_backbone=True, feature_views=views, tune="off",
    )  # fmt: skip
    data = run_data(given, squares, features_model=None, log=print, verbose=0)
    # as many views as images would fit a guess by the shape
    features = np.arange(16.0)[:, None] + 100 * np.arange(16)[:, None, None]
    monkeypatch.setattr(data.features, "of_split", lambda split, view=0: features[view])
    labels = squares.subset("train").labels
    for batches in (data.training(start_step=0), data.head_batches(features[:views], labels)):
        rows, drawn = next(iter(batches))
        view, item = np.divmod(rows.numpy()[:, 0].astype(int), 100)
        assert set(view) == set(range(views)) and (labels[item] == drawn.numpy()).all()
    rows, _ = next(iter(data.head_batches(features[0], labels)))
    assert rows.shape == (16, 1) and rows.numpy().max() < 100
