"""Embeddings of a finished run are read where weights, images and view are the same, else not."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from keras_ms.data.image_list import ImageList
from keras_ms.run.kept_embeddings import FOLDER, keep_embeddings, kept_embeddings


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return ImageList(list(map(str, paths)), [0, 0, 1, 1], ("a", "b"), ["test"] * 4)


def test_they_are_read_for_the_same_weights_images_and_view_alone(tmp_path, images):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    same = {"fingerprint": "f", "view": {"plain": [8, 9]}}
    assert kept_embeddings(tmp_path, images, **same) is None
    keep_embeddings(tmp_path, rows, images, **same)
    np.testing.assert_array_equal(kept_embeddings(tmp_path, images, **same), rows)
    assert kept_embeddings(tmp_path, images, **same | {"fingerprint": "g"}) is None
    assert kept_embeddings(tmp_path, images, **same | {"view": {"plain": [8, 10]}}) is None
    turned = dataclasses.replace(images, paths=images.paths[::-1])
    assert kept_embeddings(tmp_path, turned, **same) is None
    Image.new("RGB", (9, 9)).save(images.paths[2])
    assert kept_embeddings(tmp_path, images, **same) is None


def test_one_set_is_kept_and_a_damaged_file_is_none(tmp_path, images):
    for fingerprint in "fg":
        keep_embeddings(tmp_path, np.ones((4, 2)), images, fingerprint=fingerprint, view=[8])
    (file,) = (tmp_path / FOLDER).iterdir()
    assert kept_embeddings(tmp_path, images, fingerprint="f", view=[8]) is None
    whole = file.read_bytes()
    for content in (b"", whole[:50], whole[:-8]):
        file.write_bytes(content)
        assert kept_embeddings(tmp_path, images, fingerprint="g", view=[8]) is None
    np.save(file, np.ones((3, 2)))
    assert kept_embeddings(tmp_path, images, fingerprint="g", view=[8]) is None
