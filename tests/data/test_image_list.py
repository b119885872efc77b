import logging

import numpy as np
import pytest
from PIL import Image

from keras_ms.data.image_file import image_fault
from keras_ms.data.image_list import ImageList


def write_image(path, seed=0, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def make_folder(root, classes, per_class=2):
    for name in classes:
        for number in range(per_class):
            write_image(root / name / f"{number}.jpg", number)
    return root


def small_list(**changes):
    columns = {
        "paths": ["a", "b", "c", "d"],
        "labels": [0, 0, 1, 1],
        "class_names": ("crow", "owl"),
        "split": ["train", "train", "test", "test"],
    }
    return ImageList(**{**columns, **changes})


def test_columns_become_plain_arrays():
    images = small_list(labels=np.array([0, 0, 1, 1], np.int32))
    assert images.labels.dtype == np.int64
    assert len(images) == 4 and images.images is None
    assert images.counts() == {"train": (1, 2), "test": (1, 2)}
    assert str(images).splitlines()[1].strip() == "train: 1 class, 2 images"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": [0.0, 0.0, 1.0, 1.0]}, "integers"),
        ({"labels": [[0, 0], [0, 1], [1, 0], [1, 1]]}, "shape"),
        ({"labels": [0, 0, 1, 2]}, "from 0 to 2"),
        ({"labels": [-1, 0, 1, 1]}, "from -1"),
        ({"paths": ["a"]}, "`paths`"),
        ({"split": ["train"] * 3}, "`split`"),
        ({"split": ["train", "train", "test", "exam"]}, "exam"),
        ({"split": ["train", "test", "test", "test"]}, "crow"),
        ({"images": np.zeros((3, 2, 2, 3), np.uint8)}, "uint8"),
        ({"images": np.zeros((4, 2, 2, 3), np.float32)}, "float32"),
        ({"images": np.zeros((4, 2, 2, 2), np.uint8)}, "3 or 1"),
        ({"paths": [], "labels": np.zeros(0, int), "split": []}, "at least one"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_list(**changes)


def test_subset_keeps_ids_names_and_pixels():
    pixels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    test = small_list(images=pixels).subset("test")
    assert test.labels.tolist() == [1, 1] and test.class_names == ("crow", "owl")
    assert test.images.ravel().tolist() == [2, 3] and test.paths.tolist() == ["c", "d"]
    with pytest.raises(ValueError, match="no 'validation' images"):
        test.subset("validation")
    with pytest.raises(ValueError, match="Expected a split"):
        test.subset("exam")


def test_queries_and_gallery():
    images = small_list()
    assert not images.has_gallery()
    assert [mask.tolist() for mask in images.queries_and_gallery()] == [[True] * 4] * 2
    # a list of bools becomes an array; what is left out is all
    images = small_list(is_query=[True, True, True, False])
    assert images.is_query.dtype == bool and images.is_gallery is None
    assert images.has_gallery() and not images.subset("train").has_gallery()
    test = images.subset("test")
    assert [mask.tolist() for mask in test.queries_and_gallery()] == [[True, False], [True, True]]
    lines = str(images).splitlines()
    assert lines[1].endswith("2 images") and lines[2].endswith("(1 query, 2 in the gallery)")
    held = ImageList(
        range(10),
        np.repeat(range(5), 2),
        range(5),
        ["train"] * 8 + ["test"] * 2,
        is_query=[True] * 9 + [False],
        is_gallery=[True] * 8 + [False, True],
    ).hold_out_validation(0.5)
    assert not held.subset("validation").has_gallery() and held.subset("test").has_gallery()


def test_images_with_nothing_to_find_are_told_of():
    images = ImageList(
        range(8),
        [0, 0, 1, 2, 2, 3, 4, 5],
        range(6),
        ["train"] * 3 + ["test"] * 3 + ["validation"] * 2,
    )
    train, validation, test = str(images).splitlines()[1:]
    assert train.endswith("2 classes, 3 images")  # one image can be trained on
    assert "(2 alone in their class" in validation and "(1 alone in their class" in test


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"is_query": [1, 1, 1, 1]}, "`is_query` as True or False"),
        ({"is_gallery": [True] * 3}, "`is_gallery`.*shape \\(4,\\)"),
        ({"is_query": [True, True, False, False]}, "test images.*0 queries, 2 in the gallery"),
        (
            {"is_query": [True, True, False, False], "is_gallery": [True, True, False, False]},
            "test images.*0 queries, 0 in the gallery",
        ),
        ({"is_gallery": [False, False, True, True]}, "train images.*2 queries, 0 in the gallery"),
    ],
)
def test_queries_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_list(**changes)


def test_hold_out_validation_moves_whole_training_classes():
    labels = np.repeat(np.arange(20), 3)
    images = ImageList(
        [str(n) for n in range(60)], labels, range(20), np.where(labels < 12, "train", "test")
    )
    held = images.hold_out_validation(0.25, seed=3)
    assert held.counts() == {"train": (9, 27), "validation": (3, 9), "test": (8, 24)}
    assert (held.split == images.hold_out_validation(0.25, seed=3).split).all()
    assert (held.split != images.hold_out_validation(0.25, seed=4).split).any()
    assert (held.split[labels >= 12] == "test").all()
    assert images.hold_out_validation(0) is images
    # never fewer than two on either side
    assert images.hold_out_validation(0.01).counts()["validation"] == (2, 6)
    assert images.hold_out_validation(0.99).counts()["train"] == (2, 6)
    with pytest.raises(ValueError, match="already"):
        held.hold_out_validation(0.5)
    with pytest.raises(ValueError, match="`fraction` >= 0 and < 1"):
        images.hold_out_validation(1.0)
    with pytest.raises(ValueError, match="at least 4 training classes"):
        small_list().hold_out_validation(0.5)


def test_last_part_of_the_sorted_classes_tests(tmp_path):
    folder = make_folder(tmp_path, ["d", "a", "c", "b", "e"], per_class=3)
    (folder / ".hidden").mkdir()
    (folder / "a" / ".hidden.jpg").write_text("not an image")
    (folder / "a" / "notes.txt").write_text("ignored")
    images = ImageList.from_folder(folder)
    assert images.class_names == ("a", "b", "c", "d", "e")
    assert images.counts() == {"train": (3, 9), "test": (2, 6)}
    assert images.paths[0] == str(folder / "a" / "0.jpg") and images.name == folder.name
    assert images.paths.tolist() == sorted(images.paths.tolist())
    assert ImageList.from_folder(folder, test_fraction=0).counts() == {"train": (5, 15)}
    assert ImageList.from_folder(folder, test_fraction=1).counts() == {"test": (5, 15)}
    assert ImageList.from_folder(folder, test_fraction=0.6).counts()["test"] == (3, 9)


def test_named_test_classes(tmp_path):
    folder = make_folder(tmp_path, ["a", "b", "c", "d"])
    images = ImageList.from_folder(folder, test_classes=["a", "c"])
    assert set(images.labels[images.split == "test"]) == {0, 2}
    with pytest.raises(ValueError, match="Not there: z"):
        ImageList.from_folder(folder, test_classes=["a", "z"])
    with pytest.raises(ValueError, match="list is empty"):
        ImageList.from_folder(folder, test_classes=[])
    with pytest.raises(ValueError, match="list of names"):
        ImageList.from_folder(folder, test_classes="a")


def test_train_and_test_subfolders(tmp_path):
    make_folder(tmp_path / "train", ["c", "d"])
    make_folder(tmp_path / "val", ["e", "f"])
    make_folder(tmp_path / "test", ["a", "b"])
    images = ImageList.from_folder(tmp_path)
    assert images.class_names == ("c", "d", "e", "f", "a", "b")
    assert images.counts() == {"train": (2, 4), "validation": (2, 4), "test": (2, 4)}
    with pytest.raises(ValueError, match="leave out `test_classes`"):
        ImageList.from_folder(tmp_path, test_classes=["a"])
    make_folder(tmp_path / "test", ["c"])
    with pytest.raises(ValueError, match="(?s)class-disjoint.*more than one: c"):
        ImageList.from_folder(tmp_path)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist.*nowhere"):
        ImageList.from_folder(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FileNotFoundError, match="is a file"):
        ImageList.from_folder(file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no subfolder"):
        ImageList.from_folder(tmp_path / "empty")
    write_image(tmp_path / "flat" / "0.jpg")
    with pytest.raises(ValueError, match="put them into class folders"):
        ImageList.from_folder(tmp_path / "flat")
    (tmp_path / "raw" / "a").mkdir(parents=True)
    (tmp_path / "raw" / "a" / "0.nef").touch()
    with pytest.raises(ValueError, match="Expected files ending in .jpg.*Found: .nef"):
        ImageList.from_folder(tmp_path / "raw")
    with pytest.raises(ValueError, match="at least 2 classes.*has 1: a"):
        ImageList.from_folder(make_folder(tmp_path / "one", ["a"]))
    with pytest.raises(ValueError, match="at least 2 training classes.*leaves 1 of 2"):
        ImageList.from_folder(make_folder(tmp_path / "two", ["a", "b"]))
    with pytest.raises(ValueError, match="`test_fraction` >= 0 and <= 1"):
        ImageList.from_folder(tmp_path / "two", test_fraction=2)


def test_small_classes_raise_or_are_left_out(tmp_path, caplog):
    folder = make_folder(tmp_path, ["a", "c", "d", "e", "f"])
    make_folder(folder, ["b", "g"], per_class=1)
    # 7 classes: 4 train, of which b has one image; g tests and may have one
    with pytest.raises(ValueError, match="1 training class of .* has 1 image .*: b. Add images"):
        ImageList.from_folder(folder)
    (folder / "f2").mkdir()
    with pytest.raises(ValueError, match="1 class folder of .* has no images: f2"):
        ImageList.from_folder(folder)
    with caplog.at_level(logging.WARNING):
        images = ImageList.from_folder(folder, skip_small_classes=True)
    assert images.class_names == ("a", "c", "d", "e", "f", "g")
    assert images.counts() == {"train": (3, 6), "test": (3, 5)}
    assert caplog.text.count("left out") == 2


def test_damaged_images_and_classes_without_images_are_told_together(tmp_path):
    folder = make_folder(tmp_path, ["a", "b", "c", "d"], per_class=3)
    (folder / "e").mkdir()
    make_folder(folder, ["f"], per_class=1)
    for damaged in ("a/0.jpg", "f/0.jpg"):
        (folder / damaged).write_bytes(b"")
    words = "(?s)2 of 13 images cannot be read.*a/0.jpg .the file is empty.*skip_unreadable\n"
    both = words + "Without them 2 class folders of .* have no images: e, f: .*skip_small_classes"
    with pytest.raises(ValueError, match=both):
        ImageList.from_folder(folder)
    with pytest.raises(ValueError, match=words.replace("\n", "$")):
        ImageList.from_folder(folder, skip_small_classes=True)
    with pytest.raises(ValueError, match="2 class folders of .* have no images: e, f .* 2 images"):
        ImageList.from_folder(folder, skip_unreadable=True)
    images = ImageList.from_folder(folder, skip_unreadable=True, skip_small_classes=True)
    assert len(images) == 11 and images.class_names == ("a", "b", "c", "d")


def test_damaged_images_are_named_or_skipped(tmp_path, caplog):
    folder = make_folder(tmp_path, ["a", "b", "c", "d"], per_class=3)
    truncated, text = folder / "a" / "1.jpg", folder / "d" / "2.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-2])
    text.write_text("hello")
    message = "(?s)2 of 12 images.*a/1.jpg.*truncated.*d/2.jpg"
    with pytest.raises(ValueError, match=message) as error:
        ImageList.from_folder(folder)
    assert "0.jpg" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        images = ImageList.from_folder(folder, skip_unreadable=True)
    assert "2 of 12 images" in caplog.text
    assert images.counts() == {"train": (2, 5), "test": (2, 5)}
    assert str(truncated) not in images.paths
    # not looked at when told not to
    assert len(ImageList.from_folder(folder, check_images=False)) == 12


def test_only_some_damaged_images_are_named(tmp_path):
    folder = make_folder(tmp_path, ["a", "b", "c"])
    for number in range(25):
        (folder / "a" / f"bad{number:02}.jpg").write_text("x")
    with pytest.raises(ValueError, match="and 15 more"):
        ImageList.from_folder(folder)


def test_progress_reaches_the_number_of_images(tmp_path):
    seen = []
    folder = make_folder(tmp_path, ["a", "b", "c"])
    ImageList.from_folder(folder, progress=lambda done, total: seen.append((done, total)))
    listed = [(done, total) for done, total in seen if total is None]
    assert listed[-1] == (6, None)
    assert seen[len(listed) :] == [(n, 6) for n in range(1, 7)]


# The check and TensorFlow's decoder must accept the same files, whatever their ending says.
@pytest.mark.parametrize(
    "name, mode, change, readable",
    [
        ("rgb.jpg", "RGB", None, True),
        ("grey.jpg", "L", None, True),
        ("cmyk.jpg", "CMYK", None, True),
        ("rgba.png", "RGBA", None, True),
        ("palette.png", "P", None, True),
        ("grey.png", "L", None, True),
        ("rgb.bmp", "RGB", None, True),
        ("palette.bmp", "P", None, True),
        ("rgb.gif", "P", None, True),
        ("rgb.tiff", "RGB", None, True),
        ("one_byte_short.jpg", "RGB", lambda data: data[:-1], False),
        ("half.jpg", "RGB", lambda data: data[: len(data) // 2], False),
        ("half.png", "RGB", lambda data: data[: len(data) // 2], False),
        ("half.bmp", "RGB", lambda data: data[: len(data) // 2], False),
        ("longer.jpg", "RGB", lambda data: data + b"more", True),
        ("empty.jpg", "RGB", lambda data: b"", False),
        ("text.jpg", "RGB", lambda data: b"a text", False),
        ("broken.jpg", "RGB", lambda data: data[:700] + b"\xff\x08" * 99 + data[898:], False),
    ],
)
def test_check_agrees_with_tensorflow(tmp_path, name, mode, change, readable):
    from keras_ms.data.read_images import decode

    path = tmp_path / name
    write_image(path, mode=mode)
    original = np.asarray(Image.open(path).convert("RGB")).astype(int)
    if change:
        path.write_bytes(change(path.read_bytes()))
    assert (image_fault(path) is None) == readable
    if not readable:
        with pytest.raises(ValueError):
            decode(path.read_bytes())
        return
    decoded = decode(path.read_bytes()).numpy().astype(int)
    # two JPEG libraries differ by a few grey levels
    agrees = decoded.shape == original.shape and np.abs(decoded - original).mean() < 4
    assert agrees == readable


def test_real_birds_split_by_id(shared_data):
    images = ImageList.from_folder(shared_data / "cub200_2010", test_fraction=0.5)
    assert images.counts() == {"train": (100, 2990), "test": (100, 3043)}
    assert images.class_names[0].startswith("001.")
    assert images.labels[images.split == "test"].min() == 100


def test_whole_groups_are_held_out():
    alphabets = ("Greek", "Latin", "Tifinagh")
    names = [f"{alphabet}/{letter}" for alphabet in alphabets for letter in "abc"]
    images = ImageList(
        paths=[str(i) for i in range(18)], labels=np.repeat(np.arange(9), 2), class_names=names,
        split=["train"] * 18,
    )  # fmt: skip
    held = images.hold_out_validation(0.3, seed=1, whole_groups=True)
    moved = {names[label] for label in held.labels[held.split == "validation"]}
    assert len(moved) == 3 and len({name.split("/")[0] for name in moved}) == 1
    plain = ImageList(paths=list("abcd"), labels=range(4), class_names="abcd", split=["train"] * 4)
    with pytest.raises(ValueError, match="at least 2 groups.*a, b"):
        plain.hold_out_validation(0.3, whole_groups=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [(1, 5, 5), (1, 1, 4), (1, 1, 1, 3)])
def test_groups_are_held_out_so_that_two_classes_are_on_either_side(sizes, seed):
    names = [f"{group}/{one}" for group, count in enumerate(sizes) for one in range(count)]
    number = len(names)
    images = ImageList(names, range(number), names, ["train"] * number)
    held = images.hold_out_validation(0.3, seed=seed, whole_groups=True)
    counts = held.counts()
    assert min(counts["train"][0], counts["validation"][0]) >= 2
    groups = {split: {n.split("/")[0] for n in held.subset(split).paths} for split in counts}
    assert not groups["train"] & groups["validation"]


def test_groups_that_cannot_be_divided_are_refused():
    names = ["a/1", *(f"b/{number}" for number in range(5))]
    images = ImageList(names, range(6), names, ["train"] * 6)
    for seed in range(4):
        with pytest.raises(ValueError, match="2 groups of 6 classes, a, b.*no-validation-groups"):
            images.hold_out_validation(0.3, seed=seed, whole_groups=True)
