"""Files that take photos as they are: pictures of any size in, embeddings out."""

import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_exports import (
    facts_of,
    features,
    files_under,
    onnxruntime,
    open_sizes,
    small_embedder,
)

import keras_ms
from keras_ms.cli.main import main
from keras_ms.data.images import centre_view
from keras_ms.data.read_images import decode
from keras_ms.export import (
    ExportMismatchError,
    Preprocessing,
    export_onnx,
    export_saved_model,
    photo_graph,
    photo_parity,
    read_preprocessing,
    verify_export,
)
from keras_ms.export.embedder import embed_images, load_embedder, view_sizes
from keras_ms.export.exif_graph import exif_orientation_of, turned_upright
from keras_ms.export.feeding_rule import described_preprocessing
from keras_ms.export.formats import export_formats
from keras_ms.export.inference_model import inference_model

INSIDE = Preprocessing(16, 18, inside=True)


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.onnx"
    export_onnx(small_embedder(), path, preprocessing=INSIDE)
    return path


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def literal_axis(side, shorter, size, resize_to):
    """(start, end, weights (size, side)) of one axis, pixel by pixel, in float64."""
    to = int(np.round(np.float64(side * resize_to) / shorter))  # halves to even
    corner = (to - size) // 2
    weights = np.zeros((size, side))
    for row in range(size):
        place = (row + corner + 0.5) * side / to
        for pixel in range(side):
            distance = abs(pixel + 0.5 - place) / max(1.0, side / to)
            weights[row, pixel] = max(0.0, 1.0 - distance)
        weights[row] /= weights[row].sum()
    return weights


def session_of(size, resize_to, opset=17):
    proto = photo_graph.photo_graph(size, resize_to, dtype="float32", opset=opset)
    return onnxruntime.InferenceSession(proto.SerializeToString())


@pytest.mark.parametrize("size, resize_to, opset", [(16, 18, 13), (5, 9, 17), (1, 1, 18)])
def test_the_graph_is_the_literal_filter(size, resize_to, opset):
    session = session_of(size, resize_to, opset)
    # 35 of 24 ends half-way; 1 x 4000 has a longer side of 72,000 pixels
    shapes = [(20, 31), (24, 35), (37, 24), (1, 1), (1, 50), (50, 1), (64, 3), (18, 18), (9, 12)]
    for height, width in shapes:
        picture = pixels(height, width)
        rows, columns = (
            literal_axis(side, min(height, width), size, resize_to) for side in (height, width)
        )
        expected = np.einsum("ih,hwc,jw->ijc", rows, picture.astype(float), columns)
        (view,) = session.run(None, {"picture": picture[None]})[0]
        assert view.dtype == np.float32 and np.array_equal(view, np.round(view))
        # half-way values may be rounded either way
        assert np.abs(view - expected).max() <= 0.5 + 1e-3, (height, width)
        gaps = np.abs(view - centre_view(picture, size, resize_to).numpy())
        assert gaps.max() <= 1 and gaps.mean() <= 0.5
    for height, width in ((1, 4000), (4000, 1), (3, 2000)):
        picture = pixels(height, width)
        (view,) = session.run(None, {"picture": picture[None]})[0]
        assert np.abs(view - centre_view(picture, size, resize_to).numpy()).max() <= 1


def test_a_picture_without_pixels_is_refused_by_the_runtime(photo_file):
    session = onnxruntime.InferenceSession(str(photo_file))
    for shape in ((1, 0, 5, 3), (1, 5, 0, 3), (1, 0, 0, 3)):
        with pytest.raises(Exception, match="ONNXRuntimeError"):
            session.run(None, {"picture": np.zeros(shape, np.uint8)})
    with pytest.raises(Exception, match="[Ii]nvalid|float"):
        session.run(None, {"picture": np.zeros((1, 5, 5, 3), np.float32)})
    with pytest.raises(Exception, match="nvalid"):
        session.run(None, {"picture": np.zeros((1, 5, 5, 1), np.uint8)})


def test_the_file_says_that_it_prepares_pictures(photo_file):
    facts = facts_of(photo_file)
    rule = facts["preprocessing_rule"]
    assert (rule["height"], rule["width"], rule["dtype"]) == (None, None, "uint8")
    assert rule["exif_orientation"] is True and "shorter_side" not in rule
    assert rule["inside"]["shorter_side"] == 18 and rule["inside"]["height"] == 16
    assert "Pass the picture whole" in facts["preprocessing"]
    assert read_preprocessing(photo_file) == INSIDE
    session = onnxruntime.InferenceSession(str(photo_file))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type) == ("picture", "tensor(uint8)")
    assert taken.shape == ["batch", "height", "width", 3]
    assert (given.name, given.shape) == ("embedding", ["batch", 5])


def test_a_version_that_would_prepare_pictures_twice_refuses_the_rule():
    # what versions before this one compared: every known key of the rule itself
    _, rule = described_preprocessing(inference_model(small_embedder()), INSIDE)
    assert rule["crop"] != "centre"


def test_the_embedding_is_that_of_the_view(photo_file):
    model = small_embedder()
    for shape in ((37, 61), (18, 18), (200, 90), (1, 7)):
        pictures = np.stack([pixels(*shape, seed=seed) for seed in (0, 1)])
        views = np.stack([centre_view(one, 16, 18) for one in pictures]).astype("float32")
        found = session_run(photo_file, pictures)
        # a pixel that is rounded the other way moves an embedding by less than this
        assert np.abs(found - model(views, training=False)).max() < 2e-3
    assert verify_export(model, photo_file) < 2e-3
    assert verify_export(model, photo_file, images=np.stack([pixels(40, 30)] * 3)) < 2e-3
    # the figure means something: squashed pictures are other pictures
    squashed = tf.image.resize(pictures, (16, 16))
    assert np.abs(found - model(squashed, training=False)).max() > 1e-2


def session_run(path, pictures):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["embedding"], {"picture": pictures})[0]


@pytest.mark.slow
def test_models_of_integers_and_of_open_sizes(tmp_path):
    for build, rule in (
        (lambda: small_embedder(input_dtype="uint8"), Preprocessing(None, 20, inside=True)),
        (open_sizes, Preprocessing(24, 30, inside=True)),
    ):
        assert export_onnx(build(), tmp_path / "m.onnx", opset=13, preprocessing=rule) < 1e-5
        assert read_preprocessing(tmp_path / "m.onnx").resize_to == rule.resize_to
        assert run_onnx_shape(tmp_path / "m.onnx", (2, 50, 33, 3))[0] == 2


def run_onnx_shape(path, shape):
    return session_run(path, np.zeros(shape, np.uint8)).shape


def wide():
    inputs = keras.layers.Input((8, 12, 3))
    return keras.Model(inputs, keras.layers.Flatten()(inputs))


@pytest.mark.parametrize(
    "build, rule, options, message",
    [
        (small_embedder, INSIDE, {"opset": 12}, "`opset` of at least 13"),
        (wide, Preprocessing(None, 20, inside=True), {}, "square images"),
        (features, INSIDE, {}, "a model of RGB images"),
        (small_embedder, Preprocessing(32, 36, inside=True), {}, "image_size=32"),
        (open_sizes, Preprocessing(None, 36, inside=True), {}, "needs an `image_size`"),
    ],
)
def test_refuses_what_cannot_be_prepared_inside(build, rule, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_onnx(build(), tmp_path / "m.onnx", preprocessing=rule, **options)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize(
    "values", [{}, {"image_size": 16}, {"image_size": (16, 20), "resize_to": 24}]
)
def test_a_rule_inside_says_how_to_resize_to_a_square(values):
    with pytest.raises(ValueError, match="inside=True needs to know"):
        Preprocessing(**values, inside=True)
    with pytest.raises(ValueError, match="`inside` to be True or False"):
        Preprocessing(16, 18, inside="yes")


@pytest.mark.slow
def test_a_file_with_other_pixels_or_embeddings_is_not_kept(tmp_path, monkeypatch):
    # without antialias: another view
    broken = photo_graph._AXIS.replace(
        "AXIS_radius = Max (AXIS_scale, one_float)", "AXIS_radius = Max (one_float, one_float)"
    )
    with monkeypatch.context() as patched:
        patched.setattr(photo_graph, "_AXIS", broken)
        with pytest.raises(ExportMismatchError, match="does not make the pixels"):
            export_onnx(small_embedder(), tmp_path / "m.onnx", preprocessing=INSIDE)
    with monkeypatch.context() as patched:
        other = lambda wrapped, run, views, pictures: photo_parity.Comparison(0.1, 1.0)  # noqa: E731
        patched.setattr(photo_parity, "compare_with_photos", other)
        with pytest.raises(ExportMismatchError, match="largest difference found is 0.1"):
            export_onnx(small_embedder(), tmp_path / "m.onnx", preprocessing=INSIDE)
    assert files_under(tmp_path) == []


# --- files of photos, embedded and evaluated


def write_pictures(folder, classes=6, images=4):
    random, paths = np.random.default_rng(0), []
    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        pattern = random.uniform(0, 255, (5, 5, 3))
        for number in range(images):
            coarse = np.clip(pattern + random.normal(0, 60, pattern.shape), 0, 255)
            size = [int(side) for side in random.integers(20, 90, 2)]
            paths.append(folder / f"class {label}" / f"{number}.png")
            Image.fromarray(coarse.astype(np.uint8)).resize(size, Image.BICUBIC).save(paths[-1])
    return folder


@pytest.mark.slow
def test_photos_are_embedded_and_evaluated_whole(photo_file, tmp_path):
    model, folder = small_embedder(), write_pictures(tmp_path / "photos")
    plain = tmp_path / "plain.onnx"
    export_onnx(model, plain, preprocessing=Preprocessing(16, 18))
    images = keras_ms.ImageList.from_folder(folder).subset("test")
    one, other = load_embedder(photo_file), load_embedder(plain)
    assert one.fingerprint == other.fingerprint
    assert view_sizes(one, images) == view_sizes(other, images) == (16, 18)
    found, expected = (embed_images(e, images, verbose=False) for e in (one, other))
    assert np.abs(found - expected).max() < 2e-3
    for sizes in ({"image_size": 20}, {"resize_to": 20}):
        with pytest.raises(ValueError, match="photo.onnx prepares photos itself, shorter side 18"):
            embed_images(one, images, **sizes)
    recalls = []
    for path in (photo_file, plain):
        to = tmp_path / "figures.json"
        words = [path, folder, "--ks", "1", "--bootstrap", "0", "--to", to]
        assert main(["evaluate", *map(str, words)]) == 0
        recalls.append(json.loads(to.read_text())["values"]["recall@1"])
    assert abs(recalls[0] - recalls[1]) <= 1 / len(images) + 1e-9
    # pictures in memory, grey
    drawn = np.random.default_rng(0).integers(0, 256, (3, 30, 30, 1), np.uint8)
    drawn = keras_ms.ImageList([""] * 3, [0, 0, 1], ["a", "b"], ["test"] * 3, images=drawn)
    found, expected = (embed_images(e, drawn, image_size=16, resize_to=18, verbose=False)
                       for e in (one, other))  # fmt: skip
    assert np.abs(found - expected).max() < 2e-3


# --- the command line


def test_the_command_writes_the_file_beside_the_plain_one(tmp_path, capsys):
    small_embedder().save(tmp_path / "m.keras")
    words = ["export", str(tmp_path / "m.keras"), "--to", str(tmp_path / "out")]
    assert main([*words, "--formats", "onnx,photo_onnx"]) == 1
    assert "photo_onnx needs --resize-to" in capsys.readouterr().err
    assert main([*words, "--formats", "onnx,photo_onnx", "--resize-to", "18"]) == 0
    assert files_under(tmp_path / "out") == ["embedder.onnx", "photo_embedder.onnx"]
    assert read_preprocessing(tmp_path / "out" / "photo_embedder.onnx") == INSIDE
    plain = facts_of(tmp_path / "out" / "embedder.onnx")["model_fingerprint"]
    assert facts_of(tmp_path / "out" / "photo_embedder.onnx")["model_fingerprint"] == plain
    with pytest.raises(ValueError, match="photo_onnx needs to know"):
        export_formats(small_embedder(), tmp_path / "out", ["photo_onnx"])


# --- SavedModel


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "saved"
    export_saved_model(small_embedder(), path, preprocessing=Preprocessing(16, 18))
    return path


def written(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_a_saved_model_takes_pixels_and_bytes(saved):
    facts = facts_of(saved)
    assert set(facts["signatures"]) == {"serve, serving_default", "embed", "embed_jpeg"}
    assert read_preprocessing(saved) == Preprocessing(16, 18)
    loaded = tf.saved_model.load(str(saved))
    model = small_embedder()
    pictures = np.stack([pixels(40, 23, seed) for seed in (0, 1)])
    views = np.stack([centre_view(one, 16, 18) for one in pictures]).astype("float32")
    expected = model(views, training=False)
    found = loaded.signatures["embed"](picture=tf.constant(pictures))["embedding"]
    assert np.abs(found - expected).max() < 1e-6
    files = [written(Image.fromarray(one), "PNG") for one in pictures]
    found = loaded.signatures["embed_jpeg"](contents=tf.constant(files))["embedding"]
    assert np.abs(found - expected).max() < 1e-6
    assert load_embedder(saved).image_size == 16


def test_files_are_decoded_as_ours_are(saved):
    loaded = tf.saved_model.load(str(saved))
    coarse = Image.fromarray(pixels(5, 7)).resize((61, 40), Image.BICUBIC)
    transparent = coarse.convert("RGBA")
    transparent.putalpha(Image.fromarray(pixels(40, 61)[..., 0]))
    deep = Image.fromarray(np.asarray(coarse.convert("L")).astype(np.uint16) * 256 + 200)
    grey, palette = coarse.convert("L"), coarse.convert("P")
    files = {
        "jpeg": written(coarse, "JPEG"),
        "grey jpeg": written(grey, "JPEG"),
        "inks": written(coarse.convert("CMYK"), "JPEG"),
        "progressive": written(coarse, "JPEG", progressive=True),
        "grey": written(grey, "PNG"),
        "16 bits": written(deep, "PNG"),
        "palette": written(palette, "PNG"),
        "palette with a hole": written(palette, "PNG", transparency=7),
        "transparent": written(transparent, "PNG"),
        "black and white": written(coarse.convert("1"), "PNG"),
    }
    for name, contents in files.items():
        expected = loaded.signatures["embed"](picture=decode(contents)[None])["embedding"]
        found = loaded.signatures["embed_jpeg"](contents=tf.constant([contents]))["embedding"]
        assert np.abs(found - expected).max() < 1e-6, name
    for contents in (b"", b"no picture", written(coarse, "BMP"), files["jpeg"][:60]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            loaded.signatures["embed_jpeg"](contents=tf.constant([contents]))


@pytest.mark.parametrize("order", ["<", ">"])
def test_jpegs_are_turned_by_their_exif_orientation(order, saved, tmp_path):
    coarse = Image.fromarray(pixels(5, 7)).resize((50, 30), Image.BICUBIC)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif.endian = order
        exif[0x010F], exif[0x0112], exif[0x0132] = "a maker", orientation, "2024:01:01 00:00:00"
        contents = written(coarse, "JPEG", exif=exif, comment=b"before it")
        assert exif_orientation_of(tf.constant(contents)) == orientation
        expected = decode(contents).numpy()
        stored = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
        assert np.array_equal(turned_upright(stored, tf.constant(orientation)), expected)
    loaded = tf.saved_model.load(str(saved))
    found = loaded.signatures["embed_jpeg"](contents=tf.constant([contents]))["embedding"]
    upright = loaded.signatures["embed"](picture=expected[None])["embedding"]
    assert np.abs(found - upright).max() < 1e-6
    # of a PNG the tag is not read, which docs/runtimes.md says
    assert exif_orientation_of(tf.constant(written(coarse, "PNG", exif=exif))) == 1


@pytest.mark.parametrize(
    "contents",
    [
        b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1", b"nothing at all",
        b"\xff\xd8\xff\xe1\x00\x00Exif\0\0", b"\xff\xd8" + b"\xff\xe1\x00\x00" * 9,
        b"\xff\xd8\xff\xe1\x00\x20Exif\0\0II*\0" + b"\xff" * 60,
        b"\xff\xd8\xff\xe1\xff\xffExif\0\0MM\0*" + b"\0" * 30,
    ],
)  # fmt: skip
def test_what_is_no_exif_turns_nothing(contents):
    assert exif_orientation_of(tf.constant(contents)) == 1


@pytest.mark.slow
def test_a_saved_model_of_pixels_as_stored_turns_nothing(tmp_path):
    rule = Preprocessing(16, 18, exif_orientation=False)
    export_saved_model(small_embedder(), tmp_path / "m", preprocessing=rule)
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse = Image.fromarray(pixels(5, 7)).resize((50, 30), Image.BICUBIC)
    tagged, plain = written(coarse, "JPEG", exif=exif), written(coarse, "JPEG")
    found = loaded.signatures["embed_jpeg"](contents=tf.constant([tagged, plain]))["embedding"]
    assert np.array_equal(found[0], found[1])


def test_a_saved_model_has_no_inside(tmp_path):
    with pytest.raises(ValueError, match="inside=True is for ONNX files"):
        export_saved_model(small_embedder(), tmp_path / "m", preprocessing=INSIDE)
    export_saved_model(wide(), tmp_path / "m", preprocessing=Preprocessing(None, 20))
    assert "embed" not in tf.saved_model.load(str(tmp_path / "m")).signatures
    assert files_under(tmp_path / "m")
