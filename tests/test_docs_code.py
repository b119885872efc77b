"""The Python code of the pages runs as it stands, each page in a program of its own.

A block under `<!-- not run: why -->` is left out, and one under `<!-- name -->` may have a test of
its own (`TESTED_ELSEWHERE`). All others run here, in the order of their page, with less data, fewer
steps and smaller networks than the page has: `SMALLER`.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1]
SERVING = "tests/export/test_serving_configurations.py"
TESTED_ELSEWHERE = {
    # by a benchmark, which compares its answers with the model's
    ("docs/runtimes.md", "litert"): "scripts/benchmarks/export_parity.py",
    ("docs/devices.md", "worker"): "tests/pairs/test_replicas.py",
    ("docs/getting_started.md", "python example"): "tests/test_readme.py",
    ("docs/serving.md", "open-inference-request"): SERVING,
    ("docs/serving.md", "tensorflow-serving-files"): SERVING,
    (
        "docs/serving.md",
        "tensorflow-serving-request",
    ): SERVING,
    ("docs/serving.md", "triton-sizes"): SERVING,
}
# what some users have only: a block that imports it is left out where it is missing
OPTIONAL = {"openvino", "cv2", "onnxruntime", "lancedb", "pyarrow"}
SMALLER = {
    "docs/callbacks.md": [
        ("draw_glyphs(image_size=32)", "draw_glyphs(image_size=32, images_per_class=5)"),
        ("steps_per_epoch=100,\n    epochs=6", "steps_per_epoch=1,\n    epochs=1"),
    ],
    "docs/curriculum.md": [
        ('"inception_v3", weights="imagenet", image_size=224', "my_model"),
        ("steps_per_stage=20", "steps_per_stage=2"),
        ("steps_per_epoch=20", "steps_per_epoch=2"),
    ],
    "docs/data.md": [("keras.datasets.mnist.load_data()", "(pixels, labels), None")],
    "docs/devices.md": [
        ('"mobilenet_v2", image_size=96, embedding', '"small", image_size=96, embedding'),
        ("steps_per_epoch=100", "steps_per_epoch=1"),
    ],
    "docs/embedding.md": [('"embedder.onnx"', '"embedder.keras"')],
    "docs/fine_tuning.md": [("steps_per_epoch=300", "steps_per_epoch=1")],
    "docs/getting_started.md": [
        ('"saved_models/mine/embedder.onnx"', '"embedder.keras"'),
        ('"photos/robin/1.jpg"', '"photos/class 00/1.png"'),
    ],
    "docs/hdml.md": [
        ('"inception_v3", weights="imagenet"', "my_model"),
        ("classes_per_batch=32", "classes_per_batch=8"),
        ("steps_per_epoch=64,\n    epochs=20", "steps_per_epoch=1,\n    epochs=2"),
    ],
    "docs/hierarchical_triplet.md": [
        ("anchor_classes=4, classes_each=4", "anchor_classes=2, classes_each=2"),
        ("steps_per_epoch=50", "steps_per_epoch=1"),
        ("epochs=20", "epochs=1"),
    ],
    "docs/losses.md": [("steps_per_epoch=100", "steps_per_epoch=1")],
    "docs/questions.md": [
        ("runs/mine/embedder.keras", "embedder.keras"),
        ("steps_per_epoch=100", "steps_per_epoch=1"),
    ],
    "docs/report.md": [('from_folder("birds")', 'from_folder("photos")')],
    "docs/runtimes.md": [
        ('"saved_models/birds/saved_model"', '"saved_model"'),
        ('"saved_models/birds/embedder.onnx"', '"embedder.onnx"'),
    ],
    "docs/search.md": [('"birds/embedder.onnx"', '"embedder.keras"'), ("=128)", "=8)")],
    "docs/transfer.md": [
        ('from_folder("birds")', 'from_folder("photos")'),
        ('"mobilenet_v2", image_size=160, weights="imagenet"', "my_model, image_size=160"),
    ],
}


class Block(NamedTuple):
    page: str
    line: int
    mark: str  # what the comment above it says
    code: str


def pages():
    folders = ("docs", "keras_ms", "scripts", "examples", "tests")
    found = [path for folder in folders for path in (PROJECT / folder).rglob("*.md")]
    return sorted([*found, *PROJECT.glob("*.md")])


def blocks():
    marked = r"(?:<!-- ([^\n]*) -->\n)?^```python\n(.*?)^```$"
    pattern = re.compile(marked, re.DOTALL | re.MULTILINE)
    for path in pages():
        text = path.read_text(encoding="utf-8")
        page = path.relative_to(PROJECT).as_posix()
        for found in pattern.finditer(text):
            line = text[: found.start(2)].count("\n")
            yield Block(page, line, found.group(1) or "", found.group(2))


def has_reason(block):
    return re.fullmatch(r"not run: \w.{10,}", block.mark) is not None


def is_run_here(block):
    return not has_reason(block) and (block.page, block.mark) not in TESTED_ELSEWHERE


RUN_HERE = sorted({block.page for block in blocks() if is_run_here(block)})


def test_every_block_is_found():
    text = "".join(path.read_text(encoding="utf-8") for path in pages())
    assert len(list(blocks())) == len(re.findall(r"^ *```(?:python|py)\b", text, re.MULTILINE)) > 30


def test_marks_lead_somewhere():
    marks = {(block.page, block.mark) for block in blocks()}
    for (page, name), test in TESTED_ELSEWHERE.items():
        assert (page, name) in marks
        assert name in (PROJECT / test).read_text(encoding="utf-8"), test
    for block in blocks():
        assert has_reason(block) or not block.mark.startswith("not"), block


def test_every_block_is_python():
    for block in blocks():
        compile(block.code, f"{block.page}:{block.line}", "exec")


def write_photos(folder):
    random = np.random.default_rng(0)
    for number in range(120):
        path = folder / f"class {number // 6:02d}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = 10.0 * (number // 6)
        pixels = np.clip(colour + random.normal(0, 30, (40, 48, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def prepared(page):
    """The names that a page takes for granted, and its files in the current folder."""
    import keras
    import tensorflow as tf

    import keras_ms

    keras.utils.set_random_seed(0)
    write_photos(Path("photos"))
    Image.open("photos/class 00/0.png").save("photo.jpg")
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 8, strides=8)]
    network = keras.Sequential([keras.Input((None, None, 3)), *layers])
    embedder = keras_ms.build_embedder(network, image_size=96, embedding_size=8)
    embedder.save("embedder.keras")
    images = keras_ms.ImageList.from_folder("photos")
    random = np.random.default_rng(0)
    labels = np.arange(120) // 6
    names = {
        "keras": keras, "keras_ms": keras_ms, "np": np, "tf": tf, "json": json,
        "embedder": embedder, "model": embedder, "my_model": network, "images": images,
        "labels": labels, "embeddings": random.normal(size=(120, 8)).astype("float32"),
        "batches": keras_ms.balanced_batches(
            images.subset("train"), classes_per_batch=4, images_per_class=3, image_size=96
        ),
        "validation": (random.normal(size=(120, 96, 96, 3)).astype("float32"), labels),
        "recall": 0.5,
    }  # fmt: skip
    more = PREPARE.get(page)
    if more is not None:
        names |= more()
    return names


def prepare_data():
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    labels = np.arange(200) // 10
    with h5py.File("features.h5", "w") as file:
        file["features"] = random.normal(size=(200, 4))
        file["labels"] = labels
    pixels = random.integers(0, 256, (200, 28, 28), dtype=np.uint8)
    return {"h5py": h5py, "pixels": pixels, "labels": labels}


def prepare_fine_tuning():
    from small_transformer import transformer_embedder

    from keras_ms import balanced_batches

    rows = np.random.default_rng(0).uniform(0, 255, (40, 16, 16, 3)).astype("float32")
    batches = balanced_batches(
        (rows, np.arange(40) // 4), classes_per_batch=4, images_per_class=3, flip=False
    )
    return {"embedder": transformer_embedder(), "batches": batches}


def prepare_report():
    np.save("embeddings.npy", np.random.default_rng(0).normal(size=(60, 8)))
    return {}


def prepare_runtimes():
    import keras

    import keras_ms

    network = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(8, 8, strides=8)])
    model = keras_ms.build_embedder(network, image_size=160, embedding_size=8)
    model.save("embedder.keras")
    return {"model": model, "pixels": np.zeros((2, 50, 40, 3), np.uint8)}


def prepare_search():
    rows = np.random.default_rng(0).normal(size=(600, 8)).astype("float32")
    paths = [f"photos/{number}.jpg" for number in range(599)] + ["photos/blurred.jpg"]
    return {"paths": paths, "embeddings": rows, "queries": rows[:5]}


PREPARE = {
    "docs/data.md": prepare_data,
    "docs/fine_tuning.md": prepare_fine_tuning,
    "docs/report.md": prepare_report,
    "docs/runtimes.md": prepare_runtimes,
    "docs/search.md": prepare_search,
}


def missing(code):
    """Packages of OPTIONAL that the code imports and that are not there."""
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
    if "keras_ms.search" in code:
        imported |= {"lancedb", "pyarrow"}
    return sorted(name for name in imported & OPTIONAL if importlib.util.find_spec(name) is None)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_HERE)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    to_run = [block for block in blocks() if block.page == page and is_run_here(block)]
    for was, _ in SMALLER.get(page, ()):
        assert any(was in block.code for block in to_run), was
    names, lacking = prepared(page), set()
    for block in to_run:
        if found := missing(block.code):
            lacking |= set(found)
            continue
        code = block.code
        for was, instead in SMALLER.get(page, ()):
            code = code.replace(was, instead)
        # a traceback then names the page's own line
        exec(compile("\n" * block.line + code, str(PROJECT / page), "exec"), names)
    if lacking:
        pytest.skip(f"the other blocks ran; without {', '.join(sorted(lacking))} not all do")
