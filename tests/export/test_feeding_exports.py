"""A stranger who has an exported file alone feeds it as it was evaluated.

The code is that of docs/runtimes.md, run where neither keras_ms nor TensorFlow can be imported.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_ms
from keras_ms.cli.main import main
from keras_ms.data.images import default_resize_to, evaluation_batches
from keras_ms.evaluation import recall_at_k
from keras_ms.export import export_onnx, export_saved_model

pytest.importorskip("onnxruntime", reason='needs pip install -e ".[onnx]"')

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runtimes.md"
ALONE = """
import sys
for name in ("tensorflow", "keras", "keras_ms", "onnx"):
    sys.modules[name] = None  # cannot be imported
"""
EMBED = """
paths = open("paths.txt").read().splitlines()
np.save("views.npy", np.stack([view(path, rule) for path in paths]))
np.save("embeddings.npy", np.concatenate([embed(paths[n:n+50]) for n in range(0, len(paths), 50)]))
"""


def code_of_page(name):
    (code,) = re.findall(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return code


def embedded_by_the_page(folder, paths):
    """(views, embeddings) of photos, from the page's code and `folder`/embedder.onnx alone."""
    shutil.copy(paths[0], folder / "photo.jpg")
    (folder / "paths.txt").write_text("\n".join(str(Path(path).resolve()) for path in paths))
    parts = ALONE, code_of_page("view"), code_of_page("onnxruntime"), EMBED
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)],
        cwd=folder, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return np.load(folder / "views.npy"), np.load(folder / "embeddings.npy")


def recall_at_1(embeddings, labels):
    return recall_at_k(embeddings, labels, ks=(1,))[1]


def assert_same_recall(found, expected, num_queries):
    # 0.3 points; of fewer than 333 queries a single one is more
    assert abs(found - expected) <= max(0.003, 1 / num_queries) + 1e-9


# --- drawn photos, which are always at hand


def write_photos(folder, classes=16, images=6):
    """Blurred colour patterns, one a class, in pictures of many shapes; the first half trains."""
    random = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class {label:02}").mkdir(parents=True)
        pattern = random.uniform(0, 255, (5, 5, 3))
        for number in range(images):
            pixels = np.clip(pattern + random.normal(0, 60, pattern.shape), 0, 255)
            width, height = (int(side) for side in random.integers(60, 240, 2))
            # the motif fills the centre that is cut out, something else lies around it
            side = min(width, height) * 4 // 5
            photo = Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8))
            photo = photo.resize((width, height), Image.BICUBIC)
            motif = Image.fromarray(pixels.astype(np.uint8)).resize((side, side), Image.BICUBIC)
            photo.paste(motif, ((width - side) // 2, (height - side) // 2))
            photo.save(folder / f"class {label:02}" / f"{number}.jpg", quality=90)
    return folder


def small_model(size):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((size, size, 3), name="image"),
            keras.layers.Rescaling(1 / 127.5, -1.0),
            keras.layers.AveragePooling2D(8),
            keras.layers.Flatten(),
            keras.layers.Dense(16),
            keras.layers.UnitNormalization(axis=1),
        ]
    )


def test_drawn_photos_reach_the_recall_that_evaluate_reports(tmp_path):
    data, model = write_photos(tmp_path / "photos"), small_model(32)
    images = keras_ms.ImageList.from_folder(data).subset("test")
    rule = keras_ms.Preprocessing(image_size=32, resize_to=40)
    export_onnx(model, tmp_path / "embedder.onnx", preprocessing=rule)
    to = tmp_path / "figures.json"
    words = [tmp_path / "embedder.onnx", data, "--ks", "1", "--bootstrap", "0", "--to", to]
    assert main(["evaluate", *map(str, words)]) == 0
    expected = json.loads(to.read_text())["values"]["recall@1"]

    views, embeddings = embedded_by_the_page(tmp_path, images.paths)
    assert_same_recall(recall_at_1(embeddings, images.labels), expected, len(images))
    # the figure means something: it is neither 0 nor 1, and squashed photos have another
    squashed = [Image.open(path).resize((32, 32), Image.BILINEAR) for path in images.paths]
    squashed = model.predict(np.stack([np.asarray(x, "float32") for x in squashed]), verbose=0)
    assert 0.3 < expected < 0.97
    assert abs(recall_at_1(squashed, images.labels) - expected) > 2 / len(images)


def test_every_kind_of_picture_is_seen_as_evaluation_sees_it(tmp_path):
    random = np.random.default_rng(0)

    def coloured(width, height):
        coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
        return coarse.resize((width, height), Image.BICUBIC)

    transparent = coloured(90, 61).convert("RGBA")
    transparent.putalpha(Image.fromarray(random.integers(0, 256, (61, 90), np.uint8)))
    palette = coloured(61, 83).convert("P")
    turned = Image.Exif()
    turned[0x0112] = 6  # by 90 degrees
    pictures = {
        "wide.jpg": (coloured(140, 100), {}),
        "high.jpg": (coloured(75, 130), {"quality": 100}),
        # 35 of 24 ends half-way at 37 and 53
        "half-way.png": (coloured(35, 24), {}),
        "half-way too.png": (coloured(24, 37), {}),
        "smaller.jpg": (coloured(20, 29), {}),
        "as it is.png": (coloured(36, 55), {}),
        "turned.jpg": (coloured(90, 60), {"exif": turned}),
        "grey.jpg": (coloured(99, 60).convert("L"), {}),
        "inks.jpg": (coloured(99, 60).convert("CMYK"), {}),
        "grey.png": (coloured(60, 99).convert("L"), {}),
        "black and white.png": (coloured(60, 99).convert("1"), {}),
        "transparent.png": (transparent, {}),
        "grey and transparent.png": (transparent.convert("LA"), {}),
        "palette.png": (palette, {}),
        "palette with a hole.png": (palette, {"transparency": 7}),
        "first of a film.gif": (palette, {}),
        "bitmap.bmp": (coloured(77, 66), {}),
    }
    paths = []
    for name, (picture, options) in pictures.items():
        paths.append(tmp_path / name)
        picture.save(paths[-1], **options)
    count = len(paths)
    images = keras_ms.ImageList([str(p) for p in paths], [0] * count, "a", ["test"] * count)
    rule = keras_ms.Preprocessing(32, default_resize_to(images, 32))
    export_onnx(small_model(32), tmp_path / "embedder.onnx", preprocessing=rule)
    views, _ = embedded_by_the_page(tmp_path, paths)
    ((expected, _),) = evaluation_batches(images, 32)
    for name, view, ours in zip(pictures, views, expected.numpy()):
        # Pillow rounds after each of the two axes
        assert np.abs(view - ours).max() <= 2, name
        assert np.abs(view - ours).mean() <= 0.5, name


EACH = """
import json
embeddings, refused = {}, {}
for name in json.load(open("names.json")):
    try:
        exec(code.replace("photo.jpg", name))
        embeddings[name] = embedding[0].tolist()
    except Exception as error:
        refused[name] = str(error)
json.dump([embeddings, refused], open("found.json", "w"))
"""


def odd_photos():
    """Pillow's pictures, with the options of writing them, by name."""
    random = np.random.default_rng(0)

    def coloured(width, height):
        coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
        return coarse.resize((width, height), Image.BICUBIC)

    turned = {}
    for orientation in (3, 5, 6):
        turned[orientation] = Image.Exif()
        turned[orientation][0x0112] = orientation
    transparent = coloured(90, 61).convert("RGBA")
    transparent.putalpha(Image.fromarray(random.integers(0, 256, (61, 90), np.uint8)))
    deep = np.asarray(coloured(50, 40).convert("L")).astype(np.uint16) * 257
    return {
        "wide.png": (coloured(4000, 1), {}),
        "high.png": (coloured(1, 4000), {}),
        "one.png": (coloured(1, 1), {}),
        "two.png": (coloured(2, 1), {}),
        "as it is.png": (coloured(36, 36), {}),
        "half-way.png": (coloured(35, 24), {}),
        "large.jpg": (coloured(1500, 1000), {}),
        "upside down.jpg": (coloured(80, 60), {"exif": turned[3]}),
        "mirrored.jpg": (coloured(80, 60), {"exif": turned[5]}),
        "turned.png": (coloured(80, 60), {"exif": turned[6]}),
        "grey.jpg": (coloured(99, 60).convert("L"), {}),
        "grey.png": (coloured(60, 99).convert("L"), {}),
        "black and white.png": (coloured(60, 99).convert("1"), {}),
        "inks.jpg": (coloured(99, 60).convert("CMYK"), {}),
        "progressive.jpg": (coloured(99, 60), {"progressive": True}),
        "transparent.png": (transparent, {}),
        "grey and transparent.png": (transparent.convert("LA"), {}),
        "palette.png": (coloured(61, 83).convert("P"), {}),
        "palette with a hole.png": (coloured(61, 83).convert("P"), {"transparency": 7}),
        "film.gif": (coloured(61, 83).convert("P"), {}),
        "16 bits.png": (Image.fromarray(deep), {}),
        "16 bits.tif": (Image.fromarray(deep), {}),
        "fractions.tif": (Image.fromarray(deep.astype("float32") / 257), {}),
    }


def test_odd_photos_by_the_pages_lines_are_right_or_refused(tmp_path):
    photos = odd_photos()
    for name, (photo, options) in photos.items():
        photo.save(tmp_path / name, **options)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "names.json").write_text(json.dumps([*photos, "text.png"]))
    model = small_model(32)
    rule = keras_ms.Preprocessing(32, 36, inside=True)
    export_onnx(model, tmp_path / "photo_embedder.onnx", preprocessing=rule)
    code = f"{ALONE}\ncode = {code_of_page('photo')!r}\n{EACH}"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found, refused = json.loads((tmp_path / "found.json").read_text())
    assert set(refused) == {"16 bits.png", "16 bits.tif", "fractions.tif", "text.png"}
    assert len(found) == 20 and "8 bits a channel" in refused["16 bits.png"]
    paths = [str(tmp_path / name) for name in found]
    images = keras_ms.ImageList(paths, [0] * len(paths), "a", ["test"] * len(paths))
    ((views, _),) = evaluation_batches(images, 32, resize_to=36)
    expected = model(views, training=False).numpy()
    for name, embedding, ours in zip(found, found.values(), expected):
        # Pillow's JPEG decoder gives another grey level here and there
        assert np.abs(np.array(embedding) - ours).max() < 5e-3, name


def test_the_page_turns_photos_where_the_file_says_so(tmp_path):
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8))
    photo = coarse.resize((90, 60), Image.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "tagged.png", exif=exif)
    photo.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    paths = [tmp_path / "tagged.png", tmp_path / "upright.png"]
    for turned in (False, True):
        rule = keras_ms.Preprocessing(32, 36, exif_orientation=turned)
        export_onnx(small_model(32), tmp_path / "embedder.onnx", preprocessing=rule)
        (tagged, upright), _ = embedded_by_the_page(tmp_path, paths)
        assert np.array_equal(tagged, upright) == turned


def test_the_pages_javascript_sees_the_same(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js")
    from keras_ms.data.images import centre_view

    export_saved_model(
        small_model(32), tmp_path / "model", preprocessing=keras_ms.Preprocessing(32, 36)
    )
    facts = tmp_path / "model" / "assets.extra" / "keras_ms.json"
    program = (
        code_of_page("node-view")
        + """
const fs = require('fs');
const [facts, height, width] = process.argv.slice(1);
const rule = JSON.parse(fs.readFileSync(facts)).preprocessing_rule;
const image = view(fs.readFileSync('pixels.bin'), +height, +width, rule);
fs.writeFileSync('view.bin', Buffer.from(image.buffer));
"""
    )
    random = np.random.default_rng(0)
    for height, width in ((60, 91), (24, 35), (37, 24), (36, 50), (20, 31)):
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        pixels.tofile(tmp_path / "pixels.bin")
        subprocess.run(
            [node, "-e", program, str(facts), str(height), str(width)], cwd=tmp_path, check=True
        )
        view = np.fromfile(tmp_path / "view.bin", "float32").reshape(32, 32, 3)
        assert np.abs(view - centre_view(pixels, 32, 36).numpy()).max() <= 1


# --- real photos


@pytest.mark.slow
@pytest.mark.release
def test_birds_reach_the_recall_of_our_own_evaluation(shared_data, shared_weights, tmp_path):
    # ten of the test classes, far from each other in the list: 339 photos
    folders = sorted((shared_data / "cub200_2010").iterdir())[102::10]
    paths = [path for folder in folders for path in sorted(folder.glob("*.jpg"))]
    labels = np.array([int(path.parent.name[:3]) for path in paths])
    images = keras_ms.ImageList(
        [str(path) for path in paths], np.unique(labels, return_inverse=True)[1],
        [folder.name for folder in folders], ["test"] * len(paths),
    )  # fmt: skip
    model = keras_ms.build_embedder(
        "mobilenet_v2",
        weights=shared_weights / "mobilenet_v2_1.0_notop.weights.h5",
        image_size=160,
        embedding_size=128,
        seed=0,
    )
    rule = keras_ms.Preprocessing(160, default_resize_to(images, 160))
    export_onnx(model, tmp_path / "embedder.onnx", preprocessing=rule)
    batches = evaluation_batches(images, 160, cache=False)
    ours = model.predict(batches.map(lambda image, label: image), verbose=0)
    expected = recall_at_1(ours, labels)

    views, embeddings = embedded_by_the_page(tmp_path, paths)
    assert_same_recall(recall_at_1(embeddings, labels), expected, len(paths))
    similarity = (ours * embeddings).sum(axis=1)
    # the figures mean something: squashed photos are other photos to the model
    squashed = [Image.open(path).convert("RGB").resize((160, 160)) for path in paths[::8]]
    squashed = model.predict(np.stack([np.asarray(x, "float32") for x in squashed]), verbose=0)
    assert 0.5 < expected < 0.9
    assert similarity.min() > 0.99 > (ours[::8] * squashed).sum(axis=1).mean()

    # a file that takes photos needs Pillow to decode them and nothing else
    inside = dataclasses.replace(rule, inside=True)
    export_onnx(model, tmp_path / "photo_embedder.onnx", preprocessing=inside)
    (tmp_path / "names.json").write_text(json.dumps([str(path) for path in paths]))
    code = f"{ALONE}\ncode = {code_of_page('photo')!r}\n{EACH}"
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    found, refused = json.loads((tmp_path / "found.json").read_text())
    assert not refused
    embeddings = np.array([found[str(path)] for path in paths])
    assert_same_recall(recall_at_1(embeddings, labels), expected, len(paths))
    assert (ours * embeddings).sum(axis=1).min() > 0.99
