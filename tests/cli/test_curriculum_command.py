import json
import re

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ms.cli.main import main
from keras_ms.curriculum.subsets import curriculum_subsets
from keras_ms.curriculum.table import read_curriculum
from keras_ms.data.image_list import ImageList
from keras_ms.report.curriculum_page import write_curriculum_page

CLASSES, IMAGES = 4, 14


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of a colour for each class; the last two of each are of any colour."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (CLASSES, 3))
    for label in range(CLASSES):
        path = folder / "train" / f"class <{label}> & more"
        path.mkdir(parents=True)
        for number in range(IMAGES):
            colour = colours[label] if number < IMAGES - 2 else rng.integers(0, 256, 3)
            pixels = np.clip(colour + rng.normal(0, 9, (24, 30, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(path / f"{number:02d}.png")
    test = folder / "test" / "other"
    test.mkdir(parents=True)
    for number in range(2):
        Image.fromarray(pixels.astype(np.uint8)).save(test / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    layers = [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()]
    keras.Sequential(layers).save(path)
    return path


def train_images(photos):
    names = sorted(path.name for path in (photos / "train").iterdir())
    return ImageList(
        [str(photos / "train" / name / f"{n:02d}.png") for name in names for n in range(IMAGES)],
        np.arange(CLASSES * IMAGES) // IMAGES,
        names,
        ["train"] * (CLASSES * IMAGES),
        name="photos",
    )


def test_a_model_and_a_folder_give_a_table_and_a_page(photos, model, tmp_path, capsys):
    table = tmp_path / "new" / "photos.csv"
    assert main(["curriculum", str(model), "--data-dir", str(photos), "--to", str(table)]) == 0
    printed = capsys.readouterr().out
    assert "clean: " in printed and f"Wrote {table}" in printed
    found = read_curriculum(table, train_images(photos))
    number = np.arange(CLASSES * IMAGES) % IMAGES
    clean = found.subset == 0
    assert clean[number < IMAGES - 2].mean() > 0.4
    assert clean[number >= IMAGES - 2].mean() < 0.2
    page = table.with_suffix(".html").read_text()
    assert "class &lt;0&gt; &amp; more" in page and "<0>" not in page
    # 14 images a class: 12 of them are shown, each once
    assert page.count("<img") == page.count("data:image/jpeg") == 12 * CLASSES
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_saved_embeddings_are_divided_alike(photos, model, tmp_path):
    saved, table, other = (tmp_path / name for name in ("f.npz", "table.csv", "other.csv"))
    options = ["--data-dir", str(photos)]
    assert (
        main(
            [
                "evaluate",
                str(model),
                *options,
                "--split",
                "train",
                "--validation-fraction",
                "0",
                "--bootstrap",
                "0",
                "--save-embeddings",
                str(saved),
            ]
        )
        == 0
    )
    again = ["curriculum", str(saved), "--to", str(table), "--page-classes", "1"]
    assert main(again) == 0
    assert main([*again, "--split", "train"]) == 0
    options += ["--page-classes", "0"]
    assert main(["curriculum", str(model), *options, "--to", str(other)]) == 0
    assert table.read_text() == other.read_text()
    assert not other.with_suffix(".html").exists()
    assert "Shown: 1 of 4 classes" in table.with_suffix(".html").read_text()


def test_features_without_images_give_a_table_alone(tmp_path, capsys):
    features = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    labels = np.arange(40) % 3
    np.savez(tmp_path / "f.npz", features=features, labels=labels)
    table = tmp_path / "t.csv"
    options = [
        "--method",
        "distance",
        "--density",
        "gaussian",
        "--subsets",
        "2",
        "--distance-quantile",
        "0.5",
        "--max-dimension",
        "0",
        "--workers",
        "1",
    ]
    assert main(["curriculum", str(tmp_path / "f.npz"), "--to", str(table), *options]) == 0
    assert "No page" in capsys.readouterr().out and not table.with_suffix(".html").exists()
    expected = curriculum_subsets(
        features,
        labels,
        2,
        method="distance",
        density="gaussian",
        distance_quantile=0.5,
        max_dimension=None,
    )
    lines = [line.split(",") for line in table.read_text().splitlines()[1:]]
    assert [line[:3] for line in lines] == [
        [f"row {row}", str(labels[row]), str(expected.subset[row])] for row in range(40)
    ]


def test_names_and_any_class_ids_of_a_file_are_kept(tmp_path):
    saved, table = tmp_path / "f.npz", tmp_path / "t.csv"
    paths = np.array(["x/a.jpg", "x/b.jpg", "y/c.jpg"])
    names = np.array(["ant", "bee", "cat"])
    np.savez(saved, features=np.eye(3), labels=np.array([2, 2, 1]), paths=paths, class_names=names)
    assert main(["curriculum", str(saved), "--to", str(table)]) == 0
    lines = [line.split(",")[:2] for line in table.read_text().splitlines()[1:]]
    assert lines == [["x/a.jpg", "cat"], ["x/b.jpg", "cat"], ["y/c.jpg", "bee"]]
    # no memory for the ids between
    np.savez(saved, features=np.eye(3), labels=np.array([5, 5, 3 * 10**15]))
    assert main(["curriculum", str(saved), "--to", str(table)]) == 0
    assert [line.split(",")[1] for line in table.read_text().splitlines()[1:]] == [
        "5",
        "5",
        str(3 * 10**15),
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{f}", "--to", "{tmp}/table.txt"], "--to to end in .csv"),
        (["{f}", "--page", "{tmp}/page.pdf"], "--page to end in .html"),
        (["{f}", "--page-classes", "-1"], "--page-classes of at least 0"),
        (["{none}", "--subsets", "0"], "`subsets` from 1"),
        (["{none}", "--distance-quantile", "60"], "`distance_quantile` > 0 and < 1"),
        (["{none}", "--workers", "0"], "`workers` of at least 1"),
        (["{f}", "--batch-size", "3"], "holds features already: leave out --batch-size"),
        (["{f}", "--image-size", "3", "--data-dir", "{photos}"], "leave out --image-size"),
        (["{f}", "--split", "train", "--page", "p.html"], "leave out --split, --page"),
        (["{f}", "--seed", "1", "--test-fraction", "1"], "leave out --test-fraction, --seed"),
        (["{f}", "--page", "p.html", "--page-classes", "0"], "leave out --page"),
        (["{named}"], "one of the 2 `class_names` each"),
        (["{twice}"], "more than once: a.jpg"),
        (["{cut}"], "cannot be read"),
        (["{f}", "--data-dir", "{photos}"], "labels of the 56 train images"),
        (["{tmp}/none.npz"], "Nothing is at"),
        (["{tmp}/none.keras", "--data-dir", "{photos}"], "Nothing is at"),
        (["{bad}"], "Missing: labels"),
        (["{model}", "--data-dir", "{photos}", "--image-size", "9"], "takes images of 8 x 8"),
    ],
)
def test_what_is_wrong_is_said(arguments, message, photos, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    places = {"tmp": tmp_path, "photos": photos, "model": model}
    names = ("f", "bad", "named", "twice", "cut")
    places |= {name: tmp_path / f"{name}.npz" for name in names}
    places["none"] = tmp_path / "none.keras"  # not even looked for
    arrays = {"features": np.zeros((4, 2)), "labels": np.arange(4)}
    np.savez(places["f"], **arrays)
    np.savez(places["named"], **arrays, class_names=np.array(["a", "b"]))
    np.savez(places["twice"], **arrays, paths=np.array(["a.jpg", "b.jpg", "c.jpg", "a.jpg"]))
    places["cut"].write_bytes(places["f"].read_bytes()[:200])
    np.savez(places["bad"], embeddings=np.zeros((4, 2)))
    assert main(["curriculum", *(text.format(**places) for text in arguments)]) == 1
    assert message in capsys.readouterr().err


def test_the_page_shows_every_image_of_small_classes_once(tmp_path):
    images = ImageList(
        ["one", "two", "three"],
        [0, 1, 1],
        ["a", "b"],
        ["train"] * 3,
        images=np.zeros((3, 20, 20, 1), np.uint8),
        name="small",
    )
    found = curriculum_subsets(np.eye(3), images.labels)
    size = write_curriculum_page(found, images, tmp_path / "page.html", facts={"From": "a < b"})
    page = (tmp_path / "page.html").read_text()
    assert size == len(page.encode()) and page.count("<img") == 3 and "a &lt; b" in page
    with pytest.raises(ValueError, match="of the 3 images"):
        write_curriculum_page(type(found)(*(a[:2] for a in found)), images, tmp_path / "x.html")


def test_the_settings_of_a_run_name_the_images(photos, model, tmp_path):
    config, table = tmp_path / "settings.json", tmp_path / "t.csv"
    settings = {"data_dir": str(photos), "image_size": 8, "validation_fraction": 0.5}
    config.write_text(json.dumps(settings))
    assert main(["curriculum", str(model), "--config", str(config), "--to", str(table)]) == 0
    # the run's own training classes: half of them are held out
    assert len(table.read_text().splitlines()) == 1 + 2 * IMAGES
