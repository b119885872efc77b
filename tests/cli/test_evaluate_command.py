import json

import keras
import numpy as np
import pytest

from keras_ms.cli import evaluate as evaluate_command
from keras_ms.cli.main import main
from keras_ms.data.image_list import ImageList
from keras_ms.evaluation import recall_at_k
from keras_ms.export.embedder import embed_images, load_embedder


def write_images(folder, classes=6, images=5):
    """Coloured noise, a colour for each class; the last half of the classes test."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in range(classes):
        path = folder / f"class {label}"
        path.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for number in range(images):
            pixels = np.clip(colour + rng.normal(0, 60, (40, 50, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path / f"{number}.png")
    return folder


def small_model(size=16):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((size, size, 3), name="image"),
            keras.layers.Rescaling(1 / 127.5, -1.0),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(8),
            keras.layers.UnitNormalization(axis=1),
        ]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from keras_ms.export import export_onnx, export_saved_model

    folder, model = tmp_path_factory.mktemp("models"), small_model()
    model.save(folder / "model.keras")
    export_saved_model(model, folder / "saved_model")
    try:
        export_onnx(model, folder / "model.onnx")
    except ImportError:
        pass
    return folder


def evaluated(arguments, to):
    assert main(["evaluate", *map(str, arguments), "--to", str(to)]) == 0
    return json.loads(to.read_text())


@pytest.mark.parametrize("name", ["saved_model", "model.onnx"])
def test_every_format_gives_the_figures_of_the_keras_model(data, models, tmp_path, name, capsys):
    if not (models / name).exists():
        pytest.skip("needs the extra onnx")
    options = ["--data-dir", data, "--ks", "1,3", "--bootstrap", "50"]
    expected = evaluated([models / "model.keras", *options], tmp_path / "keras.json")
    found = evaluated([models / name, *options], tmp_path / "other.json")
    assert expected.pop("model") != found.pop("model")
    assert found == expected
    assert list(found["values"]) == ["recall@1", "recall@3", "r_precision", "map_at_r"]
    assert (found["num_queries"], found["num_classes"]) == (15, 3)
    assert set(found["recall_per_class"]) == {"class 3", "class 4", "class 5"}
    assert "| recall@1 |" in capsys.readouterr().out


def test_saved_embeddings_give_the_same_figures(data, models, tmp_path):
    saved = tmp_path / "test.npz"
    expected = evaluated(
        [models / "model.keras", data, "--save-embeddings", saved], tmp_path / "keras.json"
    )
    found = evaluated([saved], tmp_path / "saved.json")
    measured = expected.pop("measured")
    assert found | {"model": expected["model"]} == expected
    assert (measured["split"], measured["counts"]["test"]) == ("test", [3, 15])
    assert len(measured["model_fingerprint"]) == 32
    with np.load(saved) as arrays:
        recalls = recall_at_k(arrays["embeddings"], arrays["labels"])
        assert found["values"]["recall@1"] == pytest.approx(recalls[1])


def test_all_metrics_of_a_query_and_gallery_file_as_markdown(tmp_path):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 6
    is_query = rng.random(60) < 0.4
    file, table = tmp_path / "set.npz", tmp_path / "new" / "table.md"
    np.savez(
        file,
        embeddings=np.eye(6)[labels] + 0.1 * rng.standard_normal((60, 6)),
        labels=labels,
        is_query=is_query,
        is_gallery=~is_query,
    )
    arguments = ["evaluate", str(file), "--metrics", "all", "--to", str(table)]
    assert main(arguments) == 0
    text = table.read_text()
    assert f"{is_query.sum()} queries in {60 - is_query.sum()} items, 6 classes" in text
    assert "| nmi | 1.0000 | – |" in text and "| recall@1 | 1.0000 | 1.0000 – 1.0000 |" in text


def test_settings_of_a_run_and_another_split(data, models, tmp_path):
    config = tmp_path / "settings.json"
    config.write_text(json.dumps({"data_dir": str(data), "test_fraction": 0.34, "image_size": 16}))
    found = evaluated(
        [
            models / "model.keras",
            "--config",
            config,
            "--split",
            "train",
            "--validation-fraction",
            "0",
        ],
        tmp_path / "train.json",
    )
    assert found["num_classes"] == 4


def test_a_model_that_takes_any_size(data, tmp_path):
    small_model(size=None).save(tmp_path / "any.keras")
    sized = [tmp_path / "any.keras", data, "--image-size"]
    assert evaluated([*sized, 24], tmp_path / "a.json")["num_queries"] == 15


def test_a_model_of_any_size_needs_one(data, tmp_path, capsys):
    model = tmp_path / "any.keras"
    small_model(size=None).save(model)
    assert "of any size: give --image-size" in run([model, data], capsys)[1]
    config = tmp_path / "settings.json"
    config.write_text(json.dumps({"image_size": 24}))
    assert main(["evaluate", str(model), str(data), "--config", str(config)]) == 0
    assert "at 24 x 24 pixels (the centre, shorter side 27)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def with_rule(tmp_path_factory):
    """A model of any size as .keras, without a rule, and in files that want 20 of 30 pixels."""
    from keras_ms.export import Preprocessing, export_onnx, export_saved_model

    folder, model = tmp_path_factory.mktemp("with rule"), small_model(size=None)
    model.save(folder / "model.keras")
    rule = Preprocessing(20, resize_to=30, before_resizing="cut out the bird")
    export_saved_model(model, folder / "saved_model", preprocessing=rule)
    try:
        export_onnx(model, folder / "model.onnx", preprocessing=rule)
    except ImportError:
        pass
    return folder


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("name", ["saved_model", "model.onnx"])
def test_a_model_is_fed_as_its_file_says(data, with_rule, tmp_path, name, capsys):
    if not (with_rule / name).exists():
        pytest.skip("needs the extra onnx")
    words, file = [with_rule / name, data], tmp_path / "a.npz"
    assert main(["evaluate", *map(str, words), "--save-embeddings", str(file)]) == 0
    said = capsys.readouterr().out
    assert "at 20 x 20 pixels (the centre, shorter side 30)" in said
    assert "on images prepared first: cut out the bird" in said
    images = ImageList.from_folder(data).subset("test")
    bare, fed = load_embedder(with_rule / "model.keras"), load_embedder(with_rule / name)
    assert bare.preprocessing is None and fed.preprocessing.resize_to == 30
    expected = embed_images(bare, images, image_size=20, resize_to=30)
    found = [embed_images(fed, images)]
    with np.load(file) as saved:
        found.append(saved["embeddings"])
        # the report cuts its pictures alike
        assert json.loads(str(saved["data"]))["resize_to"] == 30
    for embeddings in found:
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    # what is given wins
    config = tmp_path / "settings.json"
    config.write_text(json.dumps({"image_size": 24, "resize_to": 40}))
    for options, sizes in (
        (["--resize-to", 26], "20 x 20 pixels (the centre, shorter side 26)"),
        (["--image-size", 24], "24 x 24 pixels (the centre, shorter side 27)"),
        (["--config", config], "24 x 24 pixels (the centre, shorter side 40)"),
    ):
        assert main(["evaluate", *map(str, [*words, *options])]) == 0
        assert sizes in capsys.readouterr().out
    given = embed_images(fed, images, image_size=24, resize_to=26)
    other = embed_images(bare, images, image_size=24, resize_to=26)
    np.testing.assert_allclose(given, other, atol=1e-5)


@pytest.mark.slow
@pytest.mark.release
def test_photos_are_turned_as_the_file_says(data, tmp_path):
    from PIL import Image

    from keras_ms.export import Preprocessing, export_saved_model

    embeddings = {}
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "tagged.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "stored.png")
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "upright.png")
    names = ("tagged", "stored", "upright")
    paths = [str(tmp_path / f"{name}.png") for name in names]
    images = ImageList(paths, [0] * 3, ("a",), ["test"] * 3)
    for turned in (True, False):
        rule = Preprocessing(resize_to=18, exif_orientation=turned)
        export_saved_model(small_model(), tmp_path / "model", preprocessing=rule)
        embedder = load_embedder(tmp_path / "model")
        embeddings = dict(zip(names, embed_images(embedder, images, verbose=False)))
        same, other = ("upright", "stored") if turned else ("stored", "upright")
        np.testing.assert_array_equal(embeddings["tagged"], embeddings[same])
        assert np.abs(embeddings["tagged"] - embeddings[other]).max() > 1e-4
    # a file of an earlier version, which does not say it, was trained on photos as stored
    file = tmp_path / "model" / "assets.extra" / "keras_ms.json"
    facts = json.loads(file.read_text())
    del facts["preprocessing_rule"]["exif_orientation"]
    file.write_text(json.dumps(facts))
    assert not load_embedder(tmp_path / "model").preprocessing.exif_orientation


def test_a_rule_that_cannot_be_followed_is_refused(tmp_path):
    from keras_ms.export import Preprocessing, export_saved_model

    rule = Preprocessing(resize_to=18)
    export_saved_model(small_model(), tmp_path / "turned", preprocessing=rule)
    file = tmp_path / "turned" / "assets.extra" / "keras_ms.json"
    file.write_text(file.read_text().replace("bilinear", "bicubic"))
    with pytest.raises(ValueError, match="cannot follow.*Use the version that wrote the file"):
        load_embedder(tmp_path / "turned")


def test_a_name_and_a_folder_together_and_a_folder_over_the_set_of_a_run(
    data, models, tmp_path, capsys
):
    model = str(models / "model.keras")
    assert main(["evaluate", model, "folder", "--data-dir", str(data)]) == 0
    assert main(["evaluate", model, str(data), "--dataset", "folder"]) == 0
    # they are drawn: the folder of a run's settings has nothing to do with them
    assert evaluate_command._data_set("glyphs", {}) == {"dataset": "glyphs", "data_dir": ""}
    message = "Give the data set once: folder is short for --dataset folder"
    assert message in run([model, "folder", "--dataset", "folder"], capsys)[1]
    # a set by its own name, without its place
    assert "On the command line: --data-dir" in run([model, "cub"], capsys)[1]
    config = tmp_path / "settings.json"
    config.write_text(json.dumps({"dataset": "cub", "data_dir": "cub", "ks": "3"}))
    found = evaluated([model, data, "--config", config], tmp_path / "a.json")
    assert found["num_queries"] == 15
    # the K are those of the run, 1 always among them
    assert [name for name in found["values"] if "recall" in name] == ["recall@1", "recall@3"]


def test_which_images_are_measured_and_all_of_a_folder(data, models, tmp_path, capsys):
    model = models / "model.keras"
    assert evaluated([model, data], tmp_path / "a.json")["num_queries"] == 15
    said = capsys.readouterr().out
    assert "Measured: the 15 test images of colours, at 16 x 16" in said
    assert "Not measured: its other 15 images" in said
    found = evaluated([model, data, "--test-fraction", 1], tmp_path / "b.json")
    assert (found["num_queries"], found["num_classes"]) == (30, 6)
    assert "Not measured" not in capsys.readouterr().out
    table = tmp_path / "list.csv"
    files = sorted(data.rglob("*.png"))[:10]
    table.write_text("path,label,split\n" + "".join(f"{f},{f.parent.name},test\n" for f in files))
    assert evaluated([model, table], tmp_path / "c.json")["num_queries"] == 10


def test_a_damaged_image_of_a_list_is_named(data, models, tmp_path, capsys):
    from PIL import Image

    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}.jpg")
        Image.fromarray(np.full((40, 40, 3), 9 * number, np.uint8)).save(files[-1])
    # the first and the last bytes of a JPEG, and nothing that can be decoded between them
    files[2].write_bytes(b"\xff\xd8\xff" + b"nothing" * 9 + b"\xff\xd9")
    table = tmp_path / "list.csv"
    table.write_text("path,label,split\n" + "".join(f"{f.name},a,test\n" for f in files))
    code, error = run([models / "model.keras", table], capsys)
    assert code == 1 and "1 of 4 images cannot be read" in error and "2.jpg" in error


@pytest.mark.parametrize("name", ["model.keras", "saved_model", "model.onnx"])
def test_a_model_of_a_fixed_batch_is_given_whole_batches(data, models, tmp_path, name):
    import tensorflow as tf

    free = keras.saving.load_model(models / "model.keras", compile=False)
    image = keras.Input(batch_shape=(4, 16, 16, 3))
    fixed = keras.Model(image, free(image))
    path = tmp_path / name
    if name == "saved_model":
        signature = [tf.TensorSpec((4, 16, 16, 3), tf.float32, name="image")]
        serve = tf.function(lambda image: {"embedding": fixed(image)}, input_signature=signature)
        module = tf.Module()
        module.model, module.serve = fixed, serve
        tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    elif name == "model.onnx":
        onnx = pytest.importorskip("onnx")
        exported = onnx.load(models / "model.onnx")
        for value in (*exported.graph.input, *exported.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
        onnx.save(exported, path)
    else:
        fixed.save(path)
    images = ImageList.from_folder(data).subset("test")
    embedder = load_embedder(path)
    assert embedder.batch_size == 4
    expected = embed_images(load_embedder(models / "model.keras"), images)
    assert np.abs(embed_images(embedder, images) - expected).max() < 1e-5


def run(arguments, capsys):
    code = main(["evaluate", *map(str, arguments)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{models}/missing.keras"], "Nothing is at"),
        (["{models}"], "holds no saved_model.pb"),
        (["{data}/class 0/0.png", "{data}"], "Expected a .keras file"),
        (["{models}/model.keras", "{data}", "--image-size", "20"], "takes images of 16 x 16"),
        (["{models}/model.keras", "{data}", "--data-dir", "{data}"], "Give the data set once"),
        (["{models}/model.keras", "{data}", "--metrics", "recal"], "Received: recal"),
        (["{models}/model.keras", "{data}", "--to", "a.txt"], "end in .json or .md"),
        (["{models}/model.keras", "{data}", "--save-embeddings", "a"], "end in .npz"),
        (["{models}/model.keras", "{data}", "--bootstrap", "-1"], "--bootstrap of at least 0"),
        (["{models}/model.keras", "{data}", "--validation-fraction", "0.2"], "leave it out"),
        (["missing.npz"], "Nothing is at missing.npz"),
        (["missing.npz", "{data}"], "holds embeddings already"),
        (["missing.npz", "--batch-size", "8"], "holds embeddings already"),
    ],
)
def test_errors_say_what_to_do(data, models, capsys, arguments, message):
    arguments = [argument.format(models=models, data=data) for argument in arguments]
    code, error = run(arguments, capsys)
    assert code == 1 and message in error and error.startswith("error: ")


def test_words_that_are_no_numbers_are_wrong_usage(capsys):
    with pytest.raises(SystemExit, match="2"):
        run(["model.keras", "--ks", "1,b"], capsys)
    assert "whole numbers" in capsys.readouterr().err


def test_broken_files_are_named(data, tmp_path, capsys):
    for name in ("broken.keras", "broken.onnx", "broken.npz"):
        (tmp_path / name).write_bytes(b"no such thing")
        arguments = [tmp_path / name] + ([] if name.endswith("npz") else [data])
        code, error = run(arguments, capsys)
        assert code == 1 and name in error and "cannot be" in error
    np.savez(tmp_path / "half.npz", embeddings=np.eye(3))
    assert "Missing: labels" in run([tmp_path / "half.npz"], capsys)[1]
    np.savez(tmp_path / "nan.npz", embeddings=np.full((2, 2), np.nan), labels=[1, 1])
    assert "2 of 2 rows" in run([tmp_path / "nan.npz"], capsys)[1]


def test_models_of_something_else_are_explained(data, tmp_path, capsys):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save(tmp_path / "rows.keras")
    assert "takes (None, 4)" in run([tmp_path / "rows.keras", data], capsys)[1]
    first, second = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    both = keras.Model([first, second], keras.layers.Add()([first, second]))
    both.save(tmp_path / "two.keras")
    assert "with one input" in run([tmp_path / "two.keras", data], capsys)[1]
    maps = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    maps.save(tmp_path / "maps.keras")
    assert "one embedding an item" in run([tmp_path / "maps.keras", data], capsys)[1]
    with_code = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x)])
    with_code.save(tmp_path / "code.keras")
    assert "cannot be loaded" in run([tmp_path / "code.keras", data], capsys)[1]


def test_nan_embeddings_name_the_image(data, tmp_path):
    model = small_model()
    model.layers[-2].bias.assign(np.full(8, np.nan))
    model.save(tmp_path / "nan.keras")
    images = ImageList.from_folder(data).subset("test")
    with pytest.raises(ValueError, match=r"15 of a batch of 15 .*class 3/0\.png|class 3.0\.png"):
        embed_images(load_embedder(tmp_path / "nan.keras"), images)


ROWS = np.random.default_rng(0).normal(size=(6, 4))
IDS = np.arange(6) % 3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embeddings": ROWS.astype("float16")},
        {"embeddings": np.asfortranarray(ROWS.astype(">f4"))},
        {"embeddings": (100 * ROWS).astype("int16")},
        {"embeddings": ROWS > 0},
        {"labels": IDS[:, None].astype("uint8")},
        {"labels": IDS - 1},
        {"class_names": np.array([b"a", "b\u00e9".encode(), b"c"]), "another": ROWS},
        {"is_query": IDS == 0, "is_gallery": IDS >= 0},
        {"notes": np.array([{}], dtype=object)},
    ],
)
def test_embeddings_of_other_programs_are_measured(tmp_path, changes, capsys):
    np.savez(tmp_path / "rows.npz", **{"embeddings": ROWS, "labels": IDS} | changes)
    arguments = [tmp_path / "rows.npz", "--to", tmp_path / "found.json", "--bootstrap", "0"]
    assert run(arguments, capsys) == (0, "")
    assert "recall@1" in json.loads((tmp_path / "found.json").read_text())["values"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embeddings": ROWS + 1j}, "imaginary parts"),
        ({"embeddings": ROWS.astype(object)}, "could run code"),
        ({"embeddings": ROWS.astype(str)}, "real numbers in `embeddings`"),
        ({"embeddings": ROWS.astype("f4").view("V4")}, "Expected numbers in `embeddings`"),
        ({"embeddings": ROWS.astype("M8[s]")}, "real numbers in `embeddings`"),
        ({"embeddings": ROWS[0]}, "(images, dimension)"),
        ({"embeddings": ROWS[:0], "labels": IDS[:0]}, "neither of them 0"),
        ({"embeddings": ROWS[:, :0]}, "neither of them 0"),
        ({"embeddings": np.where(ROWS == ROWS[4, 1], np.inf, ROWS)}, "the first is row 4"),
        ({"labels": IDS.astype(float)}, "integer class ids in `labels`"),
        ({"labels": IDS.astype(str)}, "number the names by"),
        ({"labels": IDS[:5]}, "row of `embeddings`: integers of shape (6,)"),
        ({"labels": np.stack([IDS, IDS], 1)}, "row of `embeddings`: integers of shape (6,)"),
        ({"class_names": np.array(["a", "b"])}, "labels from 0 to 2"),
        ({"class_names": np.array(["a"]), "labels": IDS - 3}, "labels from -3 to -1"),
        ({"class_names": np.array(["a", "b", "c"], dtype=object)}, "`class_names`"),
        ({"class_names": np.arange(3)}, "`class_names` as a list of texts"),
        ({"class_names": np.array(["a", "b", b"\xe9"], "S1")}, "decode"),
        ({"paths": np.arange(6)}, "`paths` as a list of texts"),
        ({"paths": np.array([["a"]] * 6)}, "`paths` as a list of texts"),
        ({"paths": np.array(["a"] * 5)}, "`paths` of shape (6,)"),
        ({"is_query": IDS}, "`is_query` as bool"),
        ({"is_gallery": IDS > 5}, "some of it true"),
        ({"is_gallery": (IDS > 0)[:5]}, "`is_gallery` as bool"),
        ({"gallery_embeddings": ROWS, "gallery_labels": IDS}, "a gallery of its own"),
        ({"data": json.dumps({"split": "all"})}, "Received: 'all'"),
        ({"data": json.dumps({"split": ["test"]})}, "Received: ['test']"),
        ({"data": json.dumps([1])}, "(`data`)"),
        ({"data": "[" * 100_000}, "(`data`)"),
    ],
)
def test_odd_embeddings_are_refused_before_the_work(tmp_path, changes, words, capsys):
    np.savez(tmp_path / "odd.npz", **{"embeddings": ROWS, "labels": IDS} | changes)
    for command in (["evaluate"], ["report", "--embeddings"]):
        assert main([*command, str(tmp_path / "odd.npz")]) == 1
        out, error = capsys.readouterr()
        assert error.startswith("error: ") and "odd.npz" in error and words in error
        assert out == ""


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_of_arrays_is_refused(tmp_path, content, capsys):
    file = tmp_path / "odd.npz"
    file.write_bytes(content)
    code, error = run([file], capsys)
    assert code == 1 and "odd.npz" in error and "pickle" not in error
    np.savez(file, embeddings=np.zeros((500, 40)), labels=np.zeros(500, int))
    for end in (1, 2, 3):
        file.write_bytes(file.read_bytes()[: -(file.stat().st_size * end // 4)])
        assert "cut off" in run([file], capsys)[1]
    np.save(tmp_path / "one.npy", ROWS)
    (tmp_path / "one.npy").rename(file)
    assert "no .npz file" in run([file], capsys)[1]


def test_settings_and_sizes_that_other_commands_refuse_are_told_with_the_file(tmp_path, capsys):
    data = json.dumps({"split": "test", "dataset": 3})
    np.savez(tmp_path / "odd.npz", embeddings=ROWS, labels=IDS, data=data)
    for command in (["report", "--embeddings"], ["curriculum"]):
        assert main([*command, str(tmp_path / "odd.npz")]) == 1
        error = capsys.readouterr().err
        assert "odd.npz is damaged" in error and "Invalid type for dataset" in error
    np.savez(tmp_path / "odd.npz", embeddings=1e300 * ROWS, labels=IDS)
    assert main(["weights", "--embeddings", str(tmp_path / "odd.npz")]) == 1
    assert "the range of float32 in" in capsys.readouterr().err
