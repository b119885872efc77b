"""Smaller ONNX files and the gate that they pass."""

import json
import re

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from small_exports import facts_of, files_under, onnx, onnxruntime

import keras_ms
from keras_ms.cli.main import main
from keras_ms.data.image_list import ImageList
from keras_ms.export import (
    Preprocessing,
    QuantisationRefused,
    export_onnx,
    int8_layers,
    quantisation,
    quantisation_gate,
    quantize_onnx,
    read_preprocessing,
)
from keras_ms.export.embedder import embed_images, load_embedder
from keras_ms.export.quantisation_gate import gate_images, mixed_recall

RULE = Preprocessing(16, 18)


def convolutional():
    """Enough layers to choose among; its embeddings tell the classes below apart."""
    keras.utils.set_random_seed(0)
    image = layers.Input((16, 16, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for width in (8, 8, 16, 16):
        x = layers.Conv2D(width, 3, padding="same")(x)
        x = layers.ReLU(6.0)(x)
    x = layers.Flatten()(layers.AveragePooling2D(4)(x))
    return keras.Model(image, layers.UnitNormalization(axis=1)(layers.Dense(16)(x)))


def write_photos(folder, drawn=lambda label, pixels: pixels, classes=12, images=4):
    random = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class {label:02}").mkdir(parents=True)
        pattern = random.uniform(0, 255, (4, 4, 3))
        for number in range(images):
            coarse = np.clip(pattern + random.normal(0, 40, pattern.shape), 0, 255)
            photo = Image.fromarray(coarse.astype(np.uint8)).resize((28, 20), Image.BICUBIC)
            photo = Image.fromarray(drawn(label, np.array(photo)))
            photo.save(folder / f"class {label:02}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """A plain file and one that prepares pictures, of the same model."""
    folder = tmp_path_factory.mktemp("float")
    export_onnx(convolutional(), folder / "m.onnx", preprocessing=RULE, metadata={"shoes": 1})
    inside = Preprocessing(16, 18, inside=True)
    export_onnx(convolutional(), folder / "photo.onnx", preprocessing=inside)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos") / "images")


def listed(folder):
    return keras_ms.ImageList.from_folder(folder)


def operations(path):
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("kind, low", [("float16", 0.9999), ("int8", 0.98)])
def test_a_smaller_file_is_like_the_float_one(kind, low, floats, photos, tmp_path):
    lines = []
    made = quantize_onnx(
        floats / "m.onnx", listed(photos), to=tmp_path / "small.onnx", kind=kind, max_loss=6,
        log=lines.append,
    )  # fmt: skip
    figures = made.figures
    assert made.path == tmp_path / "small.onnx" and made.float_layers == ()
    assert figures.num_bytes < figures.float_bytes and figures.float_recall > 0.5
    assert figures.mean_cosine > low and figures.low_cosine > low - 0.03 and figures.loss <= 6
    assert "calibrated on 12 images of 3 classes, measured on 36 images of 9 other" in lines[0]
    assert "float queries in its gallery" in lines[1] and kind in lines[1]
    # it says what it is, and all that the float file says
    facts, before = facts_of(made.path), facts_of(floats / "m.onnx")
    assert {key: facts[key] for key in before} == before
    assert facts["quantised"] == kind and json.loads(facts["quantised_float_layers"]) == []
    assert "measured on 36 images" in facts["quantised_gate"]
    assert kind == "float16" or "DequantizeLinear" in operations(made.path)
    # what the figures say is what the file on the disk does
    one, other = load_embedder(made.path), load_embedder(floats / "m.onnx")
    assert one.fingerprint == other.fingerprint and one.input_dtype == "float32"
    measured = listed(photos).subset("test")
    ours, theirs = (embed_images(e, measured, verbose=False) for e in (one, other))
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    assert (ours * theirs).sum(axis=1).mean() > low - 0.01


@pytest.mark.parametrize(
    "kind", ["int8", pytest.param("float16", marks=[pytest.mark.slow, pytest.mark.release])]
)
def test_inside_a_file_that_prepares_pictures_the_network_alone_changes(
    kind, floats, photos, tmp_path
):
    made = quantize_onnx(
        floats / "photo.onnx", listed(photos), to=tmp_path / "m.onnx", kind=kind, max_loss=6
    )
    assert read_preprocessing(made.path) == Preprocessing(16, 18, inside=True)
    picture = np.random.default_rng(0).integers(0, 256, (1, 50, 31, 3), np.uint8)
    embeddings = [
        onnxruntime.InferenceSession(str(path)).run(["embedding"], {"picture": picture})[0]
        for path in (made.path, floats / "photo.onnx")
    ]
    assert (embeddings[0] * embeddings[1]).sum() / np.linalg.norm(embeddings[0]) > 0.97
    # what makes the pixels is the same to the byte
    graphs = [onnx.load(path).graph for path in (made.path, floats / "photo.onnx")]
    preparing = [
        [node.SerializeToString() for node in graph.node if "picture/" in "".join(node.output)]
        for graph in graphs
    ]
    assert preparing[0] == preparing[1] and len(preparing[0]) > 50


def black(label, pixels):
    return pixels * (label >= 3)


def speckled(label, pixels):
    random = np.random.default_rng(label)
    return pixels if label >= 3 else random.integers(120, 122, pixels.shape).astype(np.uint8)


@pytest.mark.parametrize(
    "spoilt", [black, pytest.param(speckled, marks=[pytest.mark.slow, pytest.mark.release])]
)
def test_a_bad_calibration_is_refused(spoilt, floats, tmp_path):
    # the first quarter of the classes calibrates
    folder = write_photos(tmp_path / "photos", spoilt)
    lines = []
    with pytest.raises(QuantisationRefused) as refusal:
        quantize_onnx(
            floats / "m.onnx", listed(folder), to=tmp_path / "m.int8.onnx", max_loss=6,
            log=lines.append,
        )  # fmt: skip
    message = str(refusal.value)
    assert "falls by more than 6 points" in message and "measured on 36 images" in message
    # every trial was told: all layers, then one of five in float; the error says which was best
    trials = [line for line in lines if "float queries in its gallery" in line]
    assert len(trials) == len(lines) - 1 == 2 and "int8, 1 layer in float: Recall@1" in trials[1]
    assert "The best of 2 was " in message and sum(line in message for line in trials) == 1
    enough = float(re.search(r"max_loss=([\d.]+) ", message)[1])
    assert enough > 6 and f"(--max-loss {enough:g})" in message
    assert files_under(tmp_path) == files_under_photos(tmp_path)


def files_under_photos(folder):
    return [name for name in files_under(folder) if name.startswith("photos")]


def test_layers_are_left_in_float_until_the_gate_is_passed(floats, photos, tmp_path, monkeypatch):
    # one layer's weights are rounded to nothing: the file is good without it
    network = int8_layers.with_named_nodes(onnx.load(floats / "m.onnx"))
    victim = int8_layers.layers_of(network)[2]
    honest = int8_layers.quantised

    def spoilt(network, ranges, in_float=()):
        made = honest(network, ranges, in_float)
        if victim not in in_float:
            (node,) = (node for node in made.graph.node if node.name == victim)
            (scale,) = (
                before.input[1] for before in made.graph.node if node.input[1] in before.output
            )
            for tensor in made.graph.initializer:
                if tensor.name == scale:
                    values = onnx.numpy_helper.to_array(tensor) * 40
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, scale))
        return made

    monkeypatch.setattr(quantisation, "quantised", spoilt)
    made = quantize_onnx(
        floats / "m.onnx", listed(photos), to=tmp_path / "m.onnx", kind="int8", max_loss=6
    )
    assert made.float_layers == (victim,)
    assert json.loads(facts_of(made.path)["quantised_float_layers"]) == [victim]
    graph = onnx.load(made.path).graph
    (kept,) = (node for node in graph.node if node.name == victim)
    assert kept.input[1] in {tensor.name for tensor in graph.initializer}


def literal_recall(queries, gallery, labels):
    hits = 0
    for query in range(len(labels)):
        best, found = -2.0, None
        for other in range(len(labels)):
            similarity = float(queries[query] @ gallery[other])
            if other != query and similarity > best:
                best, found = similarity, labels[other]
        hits += found == labels[query]
    return hits / len(labels)


def test_mixed_recall_is_the_literal_one(monkeypatch):
    from keras_ms.export import quantisation_gate

    random = np.random.default_rng(0)
    queries, gallery = random.normal(size=(2, 40, 3))
    labels = np.arange(40) // 4
    expected = literal_recall(queries, gallery, labels)
    assert 0 < expected < 1 and mixed_recall(queries, gallery, labels) == expected
    monkeypatch.setattr(quantisation_gate, "_MOST_SIMILARITIES", 100)  # blocks of two
    assert mixed_recall(queries, gallery, labels) == expected


def test_no_class_calibrates_and_measures(photos):
    images = listed(photos)
    gate = gate_images(images, RULE)
    assert len(gate.calibration) == 12 and len(gate.measured) == 36
    assert set(gate.labels) == set(range(3, 12)) and gate.measured.shape[1:] == (16, 16, 3)


@pytest.mark.parametrize("classes", [6, 40])
def test_large_classes_share_the_measured_images(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(quantisation_gate, "_GATE_IMAGES", 40)
    monkeypatch.setattr(quantisation_gate, "_GATE_CLASSES", 10)
    random, images = np.random.default_rng(0), 25
    pixels = random.integers(0, 256, (classes * images, 16, 16, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(classes), images)
    names = [str(number) for number in range(classes)]
    splits, paths = ["test"] * len(labels), [str(row) for row in range(len(labels))]
    drawn = ImageList(paths, labels, names, splits, pixels)
    gate = gate_images(drawn, RULE)
    found, counts = np.unique(gate.labels, return_counts=True)
    # of one class alone every neighbour would be right
    assert len(gate.measured) == 40 and len(found) == min(10, classes - round(classes / 4))
    assert counts.max() == counts.min()


def test_int8_numbers_need_a_scale_for_each_channel(photos, tmp_path):
    export_onnx(convolutional(), tmp_path / "old.onnx", preprocessing=RULE, opset=12)
    with pytest.raises(ValueError, match="opset 13 or later.*old.onnx of opset 12"):
        quantize_onnx(tmp_path / "old.onnx", listed(photos), kind="int8")


def test_what_cannot_be_quantised_is_refused(floats, photos, tmp_path):
    images = listed(photos)
    export_onnx(convolutional(), tmp_path / "no rule.onnx")
    quantize_onnx(floats / "m.onnx", images, to=tmp_path / "16.onnx", kind="float16", max_loss=100)
    (tmp_path / "text.onnx").write_text("no model")
    few = keras_ms.ImageList(images.paths[:8], images.labels[:8], images.class_names, ["train"] * 8)
    for path, of, options, message in (
        (floats / "gone.onnx", images, {}, "Nothing is at"),
        (tmp_path / "no rule.onnx", images, {}, "says how photos are resized"),
        (tmp_path / "16.onnx", images, {}, "is float16 already"),
        (tmp_path / "text.onnx", images, {}, "cannot be read"),
        (floats / "m.onnx", few, {}, "at least three classes"),
        (floats / "m.onnx", images, {"kind": "int4"}, "float16, int8"),
        (floats / "m.onnx", images, {"max_loss": -1}, "`max_loss` in points"),
        (floats / "m.onnx", images, {"max_loss": float("nan")}, "`max_loss` in points"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            quantize_onnx(path, of, to=tmp_path / "new.onnx", **options)
    assert "new.onnx" not in files_under(tmp_path)


@pytest.mark.slow
@pytest.mark.release
def test_the_command_writes_what_passes_and_ends_with_1(floats, photos, tmp_path, capsys):
    words = ["quantize", str(floats / "m.onnx"), "--images", str(photos)]
    assert main([*words, "--to", str(tmp_path), "--max-loss", "6"]) == 0
    assert files_under(tmp_path) == ["m.float16.onnx", "m.int8.onnx"]
    assert "measured on 36 images" in capsys.readouterr().out
    folder = write_photos(tmp_path / "photos", black)
    words[3:] = [str(folder), "--to", str(tmp_path / "b"), "--max-loss", "6"]
    assert main(words) == 1
    assert files_under(tmp_path / "b") == ["m.float16.onnx"]
    error = capsys.readouterr().err
    assert "error: No int8 file of m.onnx was written" in error and "cosine to float" in error
