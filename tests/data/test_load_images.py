"""From settings to images: which data set lies in a folder, and training on one with a gallery."""

import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from keras_ms.callbacks import RecallAtK
from keras_ms.data.image_list import ImageList
from keras_ms.data.load_images import load_images
from keras_ms.data.sets.omniglot import load_omniglot
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.run.settings import Settings
from keras_ms.terminal.progress import progress_lines


def load(folder, **options):
    lines = []
    images = load_images(
        Settings(data_dir=str(folder), validation_fraction=0.0, **options), lines.append
    )
    return images, "\n".join(lines)


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(path)


def write_csv(folder, rows):
    lines = ["path,label,split,is_query,is_gallery"]
    for number, row in enumerate(rows):
        write_image(folder / f"{number}.png", 10 * number)
        lines.append(f"{number}.png,{row}")
    path = folder / "list.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    "mark, title",
    [
        ("CUB_200_2011/", "CUB-200-2011"),
        ("caltech_birds2011/", "CUB-200-2011"),
        ("car_ims/", "Cars-196"),
        ("cars_test.tgz", "Cars-196"),
        ("cars_test_annos_withlabels.mat", "Cars-196"),
        ("devkit/cars_meta.mat", "Cars-196"),
        ("Stanford_Online_Products/", "Stanford Online Products"),
        ("Eval/list_eval_partition.txt", "DeepFashion In-Shop"),
        ("iconic-images-and-descriptions/", "Grocery Store"),
        ("dataset/iconic-images-and-descriptions/", "Grocery Store"),
        ("omniglot_images_background.zip", "omniglot_images_evaluation.zip"),
    ],
)
def test_the_set_is_found_by_its_files(tmp_path, mark, title):
    path = tmp_path / mark
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if mark.endswith("/") else path.touch()
    # the loader of that set says what else it needs
    with pytest.raises(FileNotFoundError, match=title):
        load(tmp_path)
    # told otherwise, it is a folder of class folders
    with pytest.raises(ValueError, match="subfolder|images"):
        load(tmp_path, dataset="folder")


def test_two_sets_in_one_folder(tmp_path):
    (tmp_path / "CUB_200_2011").mkdir()
    (tmp_path / "car_ims").mkdir()
    with pytest.raises(ValueError, match="several data sets: cub, cars.*--dataset"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="cars_annos.mat"):
        load(tmp_path, dataset="cars")


def test_class_folders_and_real_sets(tmp_path, shared_data):
    for name in "abcd":
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png", number)
    images, _ = load(tmp_path)
    assert images.counts() == {"train": (2, 4), "test": (2, 4)}
    images, said = load(shared_data / "grocery")
    assert images.name == "grocery" and "read as the data set 'grocery'" in said


def test_settings_that_a_set_does_not_read(tmp_path):
    path = write_csv(tmp_path, ["a,train,1,1"] * 2 + ["b,test,1,1"] * 2)
    images, said = load(path)
    assert images.name == "list" and "'csv'" in said
    with pytest.raises(ValueError, match="check_counts is for published sets.*'csv'"):
        load(path, check_counts=False)
    with pytest.raises(ValueError, match="test_fraction is for image folders; 'csv'"):
        load(path, test_fraction=0.3)


@pytest.mark.parametrize("suffix", [".tsv", ".txt"])
def test_lists_of_other_endings(tmp_path, suffix):
    path = write_csv(tmp_path, ["a,train,1,1"] * 2 + ["b,test,1,1"] * 2)
    path = path.rename(path.with_suffix(suffix))
    path.write_text(path.read_text().replace(",", "\t"))
    assert load(path)[0].counts() == {"train": (1, 2), "test": (1, 2)}


def test_the_depth_of_class_folders_is_a_setting(tmp_path):
    for name in ("cat/lynx", "cat/puma", "dog/fox", "dog/wolf"):
        for number in range(2):
            write_image(tmp_path / "photos" / name / f"{number}.png", number)
    with pytest.raises(ValueError, match="--class-depth 2"):
        load(tmp_path / "photos")
    images, _ = load(tmp_path / "photos", class_depth=2)
    assert images.class_names == ("cat/lynx", "cat/puma", "dog/fox", "dog/wolf")
    with pytest.raises(ValueError, match="class_depth is for image folders; 'csv'"):
        load(write_csv(tmp_path, ["a,train,1,1", "a,train,1,1", "b,test,1,1"]), class_depth=2)
    with pytest.raises(ValueError, match="class_depth.*at least 1"):
        Settings(class_depth=0)


def test_listing_and_checking_tell_how_far_they_are(tmp_path, monkeypatch):
    for name in "abcd":
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png", number)
    # a line is due every half minute
    clock = itertools.count(0, 20).__next__
    lines = functools.partial(progress_lines, clock=clock)
    monkeypatch.setattr("keras_ms.data.load_images.progress_lines", lines)
    monkeypatch.setattr("keras_ms.data.load_images._TELL_EVERY", 4)
    _, said = load(tmp_path)
    assert "Listed 4 images\nListed 8 images\n" in said
    assert "checking: 2 of 8 images, about 2 min left" in said


def test_only_the_needed_splits_have_to_be_there(tmp_path):
    path = write_csv(tmp_path, ["a,test,1,1"] * 2 + ["b,test,1,1", "c,validation,1,1"])
    settings = Settings(data_dir=str(path), validation_fraction=0.0)
    images = load_images(settings, lambda line: None, needed=("test",))
    assert images.counts()["test"] == (2, 3)
    with pytest.raises(ValueError, match="no train classes"):
        load_images(settings, lambda line: None)
    with pytest.raises(ValueError, match="validation class with at least 2 images"):
        load_images(settings, lambda line: None, needed=("validation",))


def test_retrieval_arguments():
    images = ImageList(
        list("abcdef"),
        [0, 0, 0, 1, 1, 1],
        "xy",
        ["test"] * 6,
        is_query=[True, True, False, True, False, False],
        is_gallery=[False, True, True, False, True, True],
    )
    embeddings = np.arange(12.0).reshape(6, 2)
    arguments = images.retrieval_arguments(embeddings)
    assert arguments["embeddings"].tolist() == embeddings[[0, 1, 3]].tolist()
    assert arguments["labels"].tolist() == [0, 0, 1]
    assert arguments["gallery_embeddings"].tolist() == embeddings[[1, 2, 4, 5]].tolist()
    assert arguments["gallery_labels"].tolist() == [0, 0, 1, 1]
    # the second image is the gallery's first
    assert arguments["query_positions"].tolist() == [-1, 0, -1]
    # similarity falls with the distance of the angles: the second finds the third, not itself
    angles = np.radians([0, 80, 30, 60, 50, 10])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    recalls = recall_at_k(**images.retrieval_arguments(embeddings), ks=(1, 2, 3))
    # gallery: 80 and 30 of class 0, 50 and 10 of class 1. From 0: 10, 30; 80: 50, 30; 60: 50
    assert recalls == {1: 1 / 3, 2: 1.0, 3: 1.0}
    with pytest.raises(ValueError, match="each of 6 images. Got: 5"):
        images.retrieval_arguments(embeddings[:5])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps on a CSV file with queries and gallery, and its images."""
    from keras_ms.run.training import train

    folder = tmp_path_factory.mktemp("gallery")
    rows = [f"{name},train,1,1" for name in "abcd" for _ in range(2)]
    rows += [f"{name},test,{query},{1 - query}" for name in "ef" for query in (1, 0, 0)]
    settings = Settings(
        data_dir=str(write_csv(folder, rows)),
        validation_fraction=0.0,
        image_size=32,
        embedding_size=8,
        classes_per_batch=2,
        images_per_class=2,
        steps=2,
        steps_per_epoch=2,
        export="",
        run_name="run",
        runs_folder=str(folder / "runs"),
        export_folder=str(folder / "exports"),
        ks="1,2",
    )
    return train(settings, log=lambda line: None), settings, folder / "runs" / "run"


def test_training_searches_queries_in_the_gallery(trained):
    import keras

    from keras_ms.data.images import evaluation_batches

    summary, settings, run = trained
    images = load_images(settings, lambda line: None).subset("test")
    model = keras.models.load_model(run / "embedder.keras", compile=False)
    batches = evaluation_batches(images, 32, resize_to=36)
    embeddings = model.predict(batches.map(lambda image, label: image), verbose=0)
    expected = recall_at_k(**images.retrieval_arguments(embeddings), ks=(1, 2))
    assert expected.num_queries == 2
    assert summary["test_recall"]["last"] == {str(k): value for k, value in expected.items()}
    assert json.loads((run / "summary.json").read_text())["data"]["test"] == [2, 6]


def test_the_callback_searches_the_gallery():
    import keras

    points = np.array([[1.0, 0], [0, 1], [0.9, 0.1], [0.8, 0.2], [0.1, 1], [0.2, 1]], "float32")
    images = ImageList(
        list("abcdef"),
        [0, 1, 1, 0, 1, 1],
        "xy",
        ["test"] * 6,
        is_query=[True, True] + [False] * 4,
        is_gallery=[False, False] + [True] * 4,
    )
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    model.compile("sgd", "mse")
    recall = RecallAtK((points, images.labels), ks=(1, 2), images=images)
    recall.set_model(model)
    # the first query finds the wrong class first; the six in one another score 5/6 at K = 2
    recalls = recall.measure()
    assert recalls == {1: 0.5, 2: 1.0} and recalls.num_queries == 2
    assert recall_at_k(points, images.labels, (2,)) == {2: 5 / 6}
    recall = RecallAtK((points, images.labels[::-1]), images=images)
    recall.set_model(model)
    with pytest.raises(ValueError, match="in their order"):
        recall.measure()


@pytest.mark.slow
def test_omniglot_holds_out_alphabets_and_turns_characters(shared_data):
    settings = Settings(dataset="omniglot", data_dir=str(shared_data), validation_fraction=0.3)
    plain = load_images(settings)
    held = plain.labels[plain.split == "validation"]
    alphabets = {plain.class_names[label].split("/")[0] for label in held}
    trained = {plain.class_names[label].split("/")[0] for label in plain.subset("train").labels}
    assert len(alphabets) == 9 and not alphabets & trained
    turned = load_images(dataclasses.replace(settings, rotated_classes=True))
    classes, images = plain.counts()["train"]
    assert turned.counts() == {**plain.counts(), "train": (4 * classes, 4 * images)}
    framed = load_images(dataclasses.replace(settings, framed_drawings=True))
    assert framed.counts() == plain.counts()
    wanted = load_omniglot(shared_data, image_size=settings.image_size, framed=True)
    assert np.array_equal(framed.subset("test").images, wanted.subset("test").images)
    assert not np.array_equal(framed.images, plain.images)


@pytest.mark.parametrize("name", ["rotated_classes", "framed_drawings"])
def test_glyphs_refuse_what_is_for_omniglot(name):
    with pytest.raises(ValueError, match=f"{name}.*'glyphs'.*--no-{name.replace('_', '-')} after"):
        load_images(Settings(**{name: True}))
