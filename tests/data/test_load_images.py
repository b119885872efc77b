"""Any data set by its name or its files: which one lies in a folder, and what it reads."""

import functools
import itertools

import numpy as np
import pytest
from small_images import write_csv, write_image

from keras_ms.callbacks import RecallAtK
from keras_ms.data import sets
from keras_ms.data.image_list import ImageList
from keras_ms.data.load_images import load_images
from keras_ms.data.sets import catalogue
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.terminal.progress import progress_lines


def load(folder, dataset="auto", **options):
    lines = []
    images = load_images(dataset, folder, log=lines.append, **options)
    return images, "\n".join(lines)


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
    with pytest.raises(ValueError, match="several data sets: cars, cub.*dataset='folder'"):
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


def test_options_that_a_set_does_not_read(tmp_path):
    path = write_csv(tmp_path, ["a,train,1,1"] * 2 + ["b,test,1,1"] * 2)
    images, said = load(path)
    assert images.name == "list" and "'csv'" in said
    with pytest.raises(ValueError, match="check_counts is for published sets.*'csv'"):
        load(path, check_counts=False)
    with pytest.raises(ValueError, match="test_fraction is for image folders; 'csv'"):
        load(path, test_fraction=0.3)


def test_names_and_folders_that_do_not_fit(tmp_path):
    for arguments, message in (
        (("birds",), "Expected `dataset` as auto or one of cars, csv.*'birds'"),
        (("cub",), "'cub' needs data_dir"),
        (("glyphs", tmp_path), "'glyphs' is drawn and reads no data_dir"),
    ):
        with pytest.raises(ValueError, match=message):
            load_images(*arguments)
    with pytest.raises(TypeError, match="no argument 'colour'.*: .*class_depth"):
        load(tmp_path, colour="red")


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
    with pytest.raises(ValueError, match="class_depth=2 makes each folder"):
        load(tmp_path / "photos")
    images, _ = load(tmp_path / "photos", class_depth=2)
    assert images.class_names == ("cat/lynx", "cat/puma", "dog/fox", "dog/wolf")
    with pytest.raises(ValueError, match="class_depth is for image folders; 'csv'"):
        load(write_csv(tmp_path, ["a,train,1,1", "a,train,1,1", "b,test,1,1"]), class_depth=2)
    with pytest.raises(ValueError, match="class_depth.*at least 1"):
        load(tmp_path / "photos", class_depth=0)


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


def test_a_new_data_set_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "seeds.py").write_text(
        """
from keras_ms.data.image_list import ImageList
from keras_ms.data.sets.declaration import DataSet, Option


def load_seeds(data_dir, *, ripe=False):
    names = ("ripe",) if ripe else ("raw",)
    return ImageList(["a", "b"], [0, 0], names, ["test"] * 2, name="seeds")


DATA_SET = DataSet(
    name="seeds", load=load_seeds, marks=("seeds.txt",), options=(Option("ripe", False, "seeds"),)
)
"""
    )
    (tmp_path / "field").mkdir()
    (tmp_path / "field" / "seeds.txt").touch()
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path)])
    catalogue.data_sets.cache_clear()
    try:
        assert "seeds" in catalogue.data_set_names()
        images, said = load(tmp_path / "field", ripe=True)
        assert images.class_names == ("ripe",) and "read as the data set 'seeds'" in said
        assert load(tmp_path / "field", "seeds")[0].class_names == ("raw",)
        with pytest.raises(catalogue.UnreadOption, match="ripe is for seeds; 'glyphs' does not"):
            load_images("glyphs", ripe=True)
    finally:
        catalogue.data_sets.cache_clear()


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
