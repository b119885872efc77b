"""docs/search.md: its five commands lead from photos to a page of what a photo finds."""

import re
import shlex
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lancedb", reason='needs pip install -e ".[search]"')

from keras_ms.cli.main import main  # noqa: E402
from keras_ms.search import Index  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
TINY = (
    "--image-size 16 --embedding-size 8 --classes-per-batch 4 --images-per-class 2 "
    "--steps 4 --steps-per-epoch 2 --ks 1,2"
)


def five_commands():
    block = re.search(r"<!-- five commands -->\n```bash\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    commands = [shlex.split(line) for line in block.group(1).splitlines()]
    assert [words[:2] for words in commands] == [
        ["keras-ms", name] for name in ("train", "export", "embed", "index", "search")
    ]
    return [words[1:] for words in commands]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of twelve classes, and a photo of one of them."""
    random = np.random.default_rng(0)
    for number in range(48):
        folder = tmp_path / "photos" / f"class {number // 4:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    shutil.copy(tmp_path / "photos" / "class 03" / "14.png", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_the_page_shows_the_photo_first(folder):
    assert len(Index(folder / "birds.index")) == 48
    page = (folder / "page.html").read_text(encoding="utf-8")
    names = re.findall(r'title="([^"]*?): (?:query|similarity ([\d.]+))"', page)
    assert names[0] == ("photo.jpg", "") and len(names) == 11
    assert names[1][0].endswith("class 03/14.png") and names[1][1] == "1.000"


def test_embed_index_and_search(photos):
    image = keras.Input((16, 16, 3))
    x = keras.layers.AveragePooling2D(4)(image)
    model = keras.Model(image, keras.layers.Dense(8)(keras.layers.Flatten()(x)))
    (photos / "birds").mkdir()
    model.save(photos / "birds" / "embedder.keras")
    for words in five_commands()[2:]:
        assert main([word.replace(".onnx", ".keras") for word in words]) == 0
    assert_the_page_shows_the_photo_first(photos)


@pytest.mark.slow
def test_all_five_commands(photos):
    pytest.importorskip("tf2onnx", reason='needs pip install -e ".[onnx]"')
    for words in five_commands():
        assert main(words + TINY.split() * (words[0] == "train")) == 0
    assert_the_page_shows_the_photo_first(photos)
