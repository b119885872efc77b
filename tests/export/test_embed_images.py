"""Photos by their paths are embedded as those of an ImageList are."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ms import ImageList
from keras_ms.export import embed_images, load_embedder


@pytest.fixture
def embedder(tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(1))(image)
    model = keras.Model(image, keras.layers.GlobalMaxPooling2D()(x))
    model.save(tmp_path / "model.keras")
    return load_embedder(tmp_path / "model.keras")


@pytest.fixture
def paths(tmp_path):
    random = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(file)
    return files


def test_paths_give_the_rows_of_an_image_list(embedder, paths):
    images = ImageList(paths, [0, 0, 1], ("crow", "owl"), ["train", "train", "test"])
    expected = embed_images(embedder, images, verbose=False)
    assert expected.shape == (3, 4) and len(np.unique(expected[:, 0])) == 3
    np.testing.assert_array_equal(embed_images(embedder, paths, verbose=False), expected)
    texts = (str(path) for path in reversed(paths))
    np.testing.assert_array_equal(embed_images(embedder, texts, verbose=False), expected[::-1])


def test_what_is_no_list_of_photos_is_refused(embedder, paths, tmp_path):
    with pytest.raises(ValueError, match="list of paths. Received one path: .*0.png"):
        embed_images(embedder, paths[0])
    with pytest.raises(ValueError, match="at least one image"):
        embed_images(embedder, [])
    (tmp_path / "broken.jpg").write_bytes(b"none")
    with pytest.raises(ValueError, match="broken.jpg"):
        embed_images(embedder, [paths[0], tmp_path / "broken.jpg"], verbose=False)
