"""examples/browser: the page that finds similar pictures, as files and in Chromium."""

import base64
import importlib.util
import json
import os
import re
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ms.data.image_list import ImageList
from keras_ms.export import Preprocessing, export_onnx
from keras_ms.export.embedder import embed_images, load_embedder

pytest.importorskip("tf2onnx", reason='needs pip install -e ".[onnx]"')
PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "examples" / "browser"


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


write_page = loaded(EXAMPLE / "write_page.py").write_page


def drawn(random, width, height):
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
    return coarse.resize((width, height), Image.BICUBIC)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3), name="image")
    x = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 127.5, -1.0)(image))
    x = keras.layers.Dense(8)(keras.layers.Flatten()(x))
    model = keras.Model(image, keras.layers.UnitNormalization(axis=1)(x))
    path = tmp_path_factory.mktemp("model") / "embedder.onnx"
    export_onnx(model, path, preprocessing=Preprocessing(32, 36))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (folder / "naïve & <b>").mkdir()
    for number in range(40):
        size = (int(side) for side in random.integers(40, 200, 2))
        drawn(random, *size).save(folder / "naïve & <b>" / f"{number:02}.jpg", quality=95)
    return folder


def embedded(model, paths):
    images = ImageList([str(p) for p in paths], [0] * len(paths), "a", ["test"] * len(paths))
    return embed_images(load_embedder(model), images, verbose=False)


def script(folder, name):
    (value,) = re.findall(r"const \w+ = (.*);\n", (folder / name).read_text())
    return json.loads(value)


@pytest.fixture
def no_runtime(tmp_path):
    """What write_page copies of onnxruntime-web, empty."""
    folder = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    folder.mkdir(parents=True)
    for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / name).touch()
    return tmp_path / "node_modules"


def test_the_folder_holds_the_embeddings_and_all_that_the_page_loads(
    model, photos, no_runtime, tmp_path
):
    folder = tmp_path / "page"
    assert write_page(model, photos, folder, node_modules=no_runtime) == 40
    gallery, embedder = script(folder, "gallery.js"), script(folder, "embedder.js")
    paths = sorted(photos.rglob("*.jpg"))
    assert gallery["names"] == [path.relative_to(photos).as_posix() for path in paths]
    values = np.frombuffer(base64.b64decode(gallery["embeddings"]), "<f4").reshape(40, 8)
    np.testing.assert_array_equal(values, embedded(model, paths))
    assert base64.b64decode(embedder["onnx"]) == model.read_bytes()
    assert embedder["rule"]["shorter_side"] == 36
    assert gallery["fingerprint"] == embedder["fingerprint"] == load_embedder(model).fingerprint
    wanted = re.findall(r'src="(.+?)"', (folder / "index.html").read_text())
    assert {*wanted, "index.html"} == {file.name for file in folder.iterdir()}


def test_what_is_missing_is_said(model, photos, no_runtime, tmp_path):
    (tmp_path / "empty").mkdir()
    for error, words, arguments in (
        (FileNotFoundError, "npm install", (model, photos, tmp_path / "a", tmp_path)),
        (FileNotFoundError, "no", (model, tmp_path / "empty", tmp_path / "a", no_runtime)),
        (FileNotFoundError, "gone", (tmp_path / "gone.onnx", photos, tmp_path / "a", no_runtime)),
        (FileExistsError, "node_modules", (model, photos, no_runtime, no_runtime)),
    ):
        *places, modules = arguments
        with pytest.raises(error, match=words):
            write_page(*places, node_modules=modules)
    assert not (tmp_path / "a").exists()


def test_the_view_is_that_of_the_page_about_runtimes():
    text = (PROJECT / "docs" / "runtimes.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- node-view -->\n```js\n(.*?)```", text, re.DOTALL)
    assert (EXAMPLE / "view.js").read_text(encoding="utf-8") == code


def ten_queries(folder):
    """Pictures of many kinds that a browser decodes to the same pixels as Pillow does."""
    random, turned = np.random.default_rng(1), Image.Exif()
    turned[0x0112] = 6  # by 90 degrees
    picture = drawn(random, 90, 60)
    pictures = {
        "wide.jpg": (drawn(random, 140, 100), {}),
        "high.jpg": (drawn(random, 75, 130), {"quality": 100}),
        "half-way.png": (drawn(random, 35, 24), {}),
        "smaller.png": (drawn(random, 20, 29), {}),
        "turned.jpg": (picture, {"exif": turned, "quality": 100}),
        "grey.jpg": (drawn(random, 99, 60).convert("L"), {}),
        "grey.png": (drawn(random, 60, 99).convert("L"), {}),
        "palette.png": (drawn(random, 61, 83).convert("P"), {}),
        "first of a film.gif": (drawn(random, 61, 83).convert("P"), {}),
        "bitmap.bmp": (drawn(random, 77, 66), {}),
    }
    for name, (picture, options) in pictures.items():
        picture.save(folder / name, **options)
    return [folder / name for name in pictures]


def searched(page, path):
    """[(name, similarity)] that the page shows once a picture was chosen in it."""
    page.value("document.getElementById('status').textContent = ''")
    page.choose_files("#file", [path])
    end = time.monotonic() + 600
    while path.name not in (words := page.value("document.getElementById('status').textContent")):
        assert not words.startswith("It failed") and time.monotonic() < end, words
        time.sleep(0.05)
    shown = page.value(
        "[...document.querySelectorAll('#found li')].map((one) => "
        "[one.querySelector('span').textContent, one.querySelector('b').textContent])"
    )
    return [(name, float(similarity)) for name, similarity in shown]


@pytest.mark.slow
def test_the_page_finds_in_chromium_what_python_finds(model, photos, tmp_path):
    browser = loaded(PROJECT / "scripts" / "benchmarks" / "headless_chromium.py")
    if browser.find_chromium() is None:
        pytest.skip("needs Chromium or Chrome in the path")
    modules = Path(os.environ.get("KERAS_MS_NODE_MODULES", PROJECT / "node_modules"))
    if not (modules / "onnxruntime-web").is_dir():
        pytest.skip("needs npm install onnxruntime-web, here or beside $KERAS_MS_NODE_MODULES")
    write_page(model, photos, tmp_path / "page", node_modules=modules)
    names = script(tmp_path / "page", "gallery.js")["names"]
    gallery = embedded(model, [photos / name for name in names])
    queries = ten_queries(tmp_path)
    expected = embedded(model, queries) @ gallery.T
    with browser.HeadlessChromium(width=390, height=844) as page:
        page.open((tmp_path / "page" / "index.html").as_uri())
        for path, similarities in zip(queries, expected, strict=True):
            order = np.argsort(-similarities)[:12]
            found = searched(page, path)
            # rounding may let two change places that are as near
            for (name, shown), rank in zip(found, order, strict=True):
                assert shown == pytest.approx(similarities[names.index(name)], abs=5e-3), path.name
                assert similarities[names.index(name)] == pytest.approx(
                    similarities[rank], abs=5e-3
                ), path.name
        assert page.value("document.documentElement.scrollWidth") == 390
        # what is found can be searched with
        page.value("document.querySelector('#found button').click()")
        assert float(page.value("document.querySelector('#found b').textContent")) == 1
        (tmp_path / "text.jpg").write_text("no picture")
        page.choose_files("#file", [tmp_path / "text.jpg"])
        while "text.jpg is no picture" not in page.value("document.body.textContent"):
            time.sleep(0.05)
