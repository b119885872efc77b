"""The published data sets from their authors' lists, with empty files or tiny images."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy import io

from keras_ms.data.sets import benchmarks
from keras_ms.data.sets.cars import load_cars
from keras_ms.data.sets.cub import load_cub
from keras_ms.data.sets.grocery import load_grocery
from keras_ms.data.sets.in_shop import load_in_shop
from keras_ms.data.sets.sop import load_sop
from keras_ms.evaluation.retrieval import recall_at_k

CUB_LISTS = ("images.txt", "image_class_labels.txt", "classes.txt")


def touch(folder, paths):
    """Empty files: the loaders look whether images are there, and open none."""
    for parent in {(folder / path).parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (folder / path).touch()


@pytest.fixture
def no_walk(monkeypatch):
    """All images count as there: creating a hundred thousand files says nothing about lists."""
    monkeypatch.setattr(benchmarks, "_present", lambda folder, paths: np.ones(len(paths), bool))


@pytest.fixture(scope="session")
def official_cub(shared_data, tmp_path_factory):
    """The official lists, with an empty file for each of the 11,788 images."""
    folder = tmp_path_factory.mktemp("cub") / "CUB_200_2011"
    folder.mkdir()
    for name in CUB_LISTS:
        shutil.copy(shared_data / "annotations" / "CUB_200_2011" / name, folder)
    lines = (folder / "images.txt").read_text().splitlines()
    touch(folder / "images", [line.split()[1] for line in lines])
    return folder


def small_cub(folder, classes=(1, 100, 101, 200), per_class=2):
    """A partial set in the official format: 200 classes are named, images are of few."""
    paths = [f"{c:03}.Bird/{n}.jpg" for c in classes for n in range(per_class)]
    touch(folder / "images", paths)
    numbers = range(1, len(paths) + 1)
    labels = [c for c in classes for _ in range(per_class)]
    (folder / "images.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(numbers, paths)))
    (folder / "image_class_labels.txt").write_text(
        "".join(f"{n} {c}\n" for n, c in zip(numbers, labels))
    )
    (folder / "classes.txt").write_text("".join(f"{c} {c:03}.Bird\n" for c in range(1, 201)))
    return folder


def test_cub_from_the_official_lists(official_cub, shared_data):
    images = load_cub(official_cub.parent)
    assert images.counts() == {"train": (100, 5864), "test": (100, 5924)}
    assert len(images.class_names) == 200
    assert images.class_names[0] == "001.Black_footed_Albatross"
    assert set(images.labels[images.split == "train"]) == set(range(100))
    # each image lies in the folder of its class
    folders = np.array([path.split("/")[-2] for path in images.paths])
    assert (folders == np.array(images.class_names)[images.labels]).all()
    # the folder itself will do
    assert load_cub(official_cub).paths.tolist() == images.paths.tolist()
    assert images.name == "cub" and not images.has_gallery()


def test_missing_cub_images_are_named_or_left_out(tmp_path, caplog):
    folder = tmp_path / "CUB_200_2011"
    small_cub(folder)
    gone = folder / "images" / "101.Bird" / "0.jpg"
    gone.unlink()
    with pytest.raises(FileNotFoundError, match="(?s)1 missing.*101.Bird/0.jpg.*CUB_200_2011.tgz"):
        load_cub(tmp_path)
    images = load_cub(tmp_path, check_counts=False)
    assert images.counts() == {"train": (2, 4), "test": (2, 3)}
    assert images.passed_over == {"missing images": 1}
    assert "1 of 8 images are missing" in caplog.text and str(gone) in caplog.text
    assert "expected 100 classes, 5,864 images" in caplog.text
    gone.touch()
    with pytest.raises(ValueError, match="found 2 classes, 4 images, expected 100 classes, 5,864"):
        load_cub(tmp_path)
    shutil.rmtree(folder / "images")
    with pytest.raises(FileNotFoundError, match="8 missing"):
        load_cub(tmp_path, check_counts=False)


def test_an_incomplete_folder_beside_its_archive_is_told(tmp_path):
    folder = small_cub(tmp_path / "CUB_200_2011")
    (folder / "images" / "101.Bird" / "0.jpg").unlink()
    for archive in ("CUB_200_2011.tgz", "unrelated.tgz"):
        (tmp_path / archive).touch()
    with pytest.raises(FileNotFoundError) as error:
        load_cub(tmp_path)
    assert f"{folder} is read before any archive: remove it to have " in str(error.value)
    assert "unrelated" not in str(error.value)
    (folder / "images.txt").unlink()
    with pytest.raises(FileNotFoundError, match="is read before any archive"):
        load_cub(tmp_path)
    (tmp_path / "CUB_200_2011.tgz").unlink()
    with pytest.raises(FileNotFoundError) as error:
        load_cub(folder.parent, check_counts=False)
    assert "before any archive" not in str(error.value)


def test_images_behind_a_link_are_there(tmp_path):
    folder = small_cub(tmp_path / "CUB_200_2011")
    (folder / "images").rename(tmp_path / "disk")
    (tmp_path / "disk" / "001.Bird").rename(tmp_path / "crows")
    try:
        (folder / "images").symlink_to(tmp_path / "disk")
        (tmp_path / "disk" / "001.Bird").symlink_to(tmp_path / "crows")
    except OSError:
        pytest.skip("no symbolic links here")
    assert len(load_cub(tmp_path, check_counts=False)) == 8
    with pytest.raises(ValueError, match="expected 100 classes"):
        load_cub(tmp_path)


def test_cub_lists_that_are_wrong(tmp_path):
    folder = small_cub(tmp_path / "CUB_200_2011")
    labels = folder / "image_class_labels.txt"
    whole = labels.read_text()
    for content, message in (
        (whole[:-6], "different images"),
        (whole.replace("3 100", "3 100 7"), "2 columns in line 3"),
        (whole.replace("3 100", "3 duck"), "whole numbers .*duck"),
        (whole.replace("3 100", "3 201"), "from 0 to 199"),
        (whole.replace("3 100", "3 " + "9" * 5000), "number 3: '9{40}', 5,000 characters"),
        ("", "holds none"),
    ):
        labels.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_cub(tmp_path, check_counts=False)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="(?s)1 missing.*image_class_labels.txt"):
        load_cub(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_that_an_editor_saved_anew(tmp_path, encoding):
    folder = small_cub(tmp_path / "CUB_200_2011")
    for name in CUB_LISTS:
        text = (folder / name).read_text().replace("\n", "\r\n")
        (folder / name).write_bytes(text.encode(encoding))
    assert load_cub(tmp_path, check_counts=False).counts() == {"train": (2, 4), "test": (2, 4)}


def test_names_in_lists_may_hold_any_bytes(tmp_path):
    folder = small_cub(tmp_path / "CUB_200_2011")
    (folder / "images" / "001.Bird" / "0.jpg").rename(folder / "images" / "001.Bird" / "\udce9.jpg")
    content = (folder / "images.txt").read_bytes()
    (folder / "images.txt").write_bytes(content.replace(b"001.Bird/0", b"001.Bird/\xe9"))
    images = load_cub(tmp_path, check_counts=False)
    assert len(images) == 8 and all(map(os.path.isfile, images.paths))


def test_cub_from_its_archive(tmp_path):
    small_cub(tmp_path / "made" / "CUB_200_2011")
    (tmp_path / "made" / "attributes.txt").touch()
    data = tmp_path / "data"
    data.mkdir()
    with tarfile.open(data / "CUB_200_2011.tgz", "w:gz") as tar:
        tar.add(tmp_path / "made", ".")
    with pytest.raises(ValueError, match="another check sum"):
        load_cub(data)
    assert [path.name for path in data.iterdir()] == ["CUB_200_2011.tgz"]
    told = []
    images = load_cub(data, check_counts=False, progress=lambda *done: told.append(done))
    assert len(images) == 8 and told[-1] == (11, None)
    assert (data / "CUB_200_2011" / "images" / "200.Bird" / "1.jpg").is_file()
    # once: the folder is read from now on
    (data / "CUB_200_2011.tgz").write_bytes(b"")
    assert len(load_cub(data, check_counts=False)) == 8


def test_a_damaged_archive_leaves_no_folder(tmp_path):
    (tmp_path / "CUB_200_2011.tgz").write_bytes(b"\x1f\x8b" + b"x" * 100)
    with pytest.raises(ValueError, match="cut off or damaged"):
        load_cub(tmp_path, check_counts=False)
    assert [path.name for path in tmp_path.iterdir()] == ["CUB_200_2011.tgz"]


@pytest.mark.parametrize(
    "load, names",
    [
        (load_cub, ["CUB_200_2011.tgz", "caltech_birds2011/"]),
        (load_cars, ["cars_annos.mat", "car_ims.tgz", "cars196/"]),
        (load_sop, ["Stanford_Online_Products.zip", "stanford_online_products/"]),
        (load_in_shop, ["list_eval_partition.txt", "img.zip"]),
        (load_grocery, ["train.txt", "classes.csv"]),
    ],
)
def test_nothing_there(tmp_path, load, names):
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path)
    message = str(error.value)
    assert all(name in message for name in names) and "https://" in message
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def cars_lists(shared_data):
    folder = shared_data / "annotations" / "cars196"
    lines = [
        line.split()
        for name in ("list_train.txt", "list_test.txt")
        for line in (folder / name).read_text().splitlines()
    ]
    return [name for name, _ in lines], np.array([int(number) for _, number in lines])


def write_combined(path, names, class_ids, num_classes=196):
    """cars_annos.mat: its struct array and cell array, of the fields' own types."""
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = np.zeros((1, len(names)), [(field, object) for field in fields])
    for index, (name, number) in enumerate(zip(names, class_ids)):
        rows[0, index] = (f"car_ims/{name}", 1, 1, 9, 9, int(number), index % 2)
    cells = np.empty((1, num_classes), object)
    cells[0, :] = [f"Car {number}" for number in range(1, num_classes + 1)]
    io.savemat(path, {"annotations": rows, "class_names": cells})


def test_cars_from_the_official_lists(shared_data, tmp_path):
    for name in ("list_train.txt", "list_test.txt", "cars_meta.mat"):
        shutil.copy(shared_data / "annotations" / "cars196" / name, tmp_path)
    names, class_ids = cars_lists(shared_data)
    with pytest.raises(FileNotFoundError, match="(?s)1 missing.*car_ims.tgz"):
        load_cars(tmp_path)
    touch(tmp_path / "car_ims", names)
    images = load_cars(tmp_path)
    assert images.counts() == {"train": (98, 8054), "test": (98, 8131)}
    assert images.class_names[0] == "AM General Hummer SUV 2000"
    assert set(images.labels[images.split == "test"]) == set(range(98, 196))
    (tmp_path / "cars_meta.mat").unlink()
    assert load_cars(tmp_path).class_names[195] == "196"
    (tmp_path / "list_test.txt").write_text("000001.jpg one\n")
    with pytest.raises(ValueError, match="whole numbers in .*list_test.txt"):
        load_cars(tmp_path)
    (tmp_path / "list_test.txt").unlink()
    with pytest.raises(FileNotFoundError, match="list_test.txt"):
        load_cars(tmp_path)


@pytest.mark.slow
@pytest.mark.release
def test_cars_from_the_combined_annotations(shared_data, tmp_path, no_walk):
    names, class_ids = cars_lists(shared_data)
    write_combined(tmp_path / "cars_annos.mat", names, class_ids)
    (tmp_path / "car_ims").mkdir()
    images = load_cars(tmp_path)
    assert images.counts() == {"train": (98, 8054), "test": (98, 8131)}
    assert images.class_names[195] == "Car 196"
    assert (images.labels == class_ids - 1).all()
    assert images.paths[0] == str(tmp_path / "car_ims" / names[0])


def test_cars_from_the_two_halves(shared_data, tmp_path, no_walk):
    source = shared_data / "annotations" / "cars196"
    devkit = tmp_path / "devkit"
    devkit.mkdir()
    for name in ("cars_train_annos.mat", "cars_meta.mat"):
        shutil.copy(source / name, devkit)
    with pytest.raises(FileNotFoundError, match="(?s)1 missing.*annos_withlabels.mat"):
        load_cars(tmp_path)
    # the published test classes, in an order of our own: the combined list minus the train half
    _, class_ids = cars_lists(shared_data)
    train = io.loadmat(devkit / "cars_train_annos.mat")["annotations"]["class"].ravel()
    train = np.bincount([int(value.item()) for value in train], minlength=197)
    rest = np.repeat(np.arange(197), np.bincount(class_ids) - train)
    rows = np.zeros((1, len(rest)), [("class", object), ("fname", object)])
    for index, number in enumerate(rest):
        rows[0, index] = (int(number), f"{index + 1:05}.jpg")
    io.savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(FileNotFoundError, match="(?s)2 missing.*cars_train.tgz.*cars_test.tgz"):
        load_cars(tmp_path)
    for name in ("cars_train", "cars_test"):
        (tmp_path / name).mkdir()
    images = load_cars(tmp_path)
    assert images.counts() == {"train": (98, 8054), "test": (98, 8131)}
    assert images.paths[0] == str(tmp_path / "cars_train" / "00001.jpg")
    assert images.paths[-1] == str(tmp_path / "cars_test" / "08041.jpg")


def test_cars_files_that_are_wrong(shared_data, tmp_path):
    (tmp_path / "car_ims").mkdir()
    with pytest.raises(FileNotFoundError, match="(?s)1 missing.*cars_annos.mat"):
        load_cars(tmp_path)
    mat = tmp_path / "cars_annos.mat"
    write_combined(mat, ["1.jpg", "2.jpg"], [1, 100])
    touch(tmp_path / "car_ims", ["1.jpg", "2.jpg"])
    assert load_cars(tmp_path, check_counts=False).split.tolist() == ["train", "test"]
    mat.write_bytes(mat.read_bytes()[:200])
    with pytest.raises(ValueError, match="damaged or no MATLAB file"):
        load_cars(tmp_path)
    shutil.copy(shared_data / "annotations" / "cars196" / "cars_meta.mat", mat)
    with pytest.raises(ValueError, match="Expected `annotations`"):
        load_cars(tmp_path)


def sizes(classes, images):
    """How many images each class has, 2 at least: as even as the counts allow."""
    return np.diff(np.linspace(0, images, classes + 1).astype(int))


def sop_list(path, first_class, classes, images):
    class_ids = np.repeat(np.arange(first_class, first_class + classes), sizes(classes, images))
    rows = [
        f"{number} {class_id} {class_id % 12 + 1} lamp_final/{class_id}_{number}.JPG"
        for number, class_id in enumerate(class_ids, 1)
    ]
    path.write_text("\n".join(["image_id class_id super_class_id path", *rows]) + "\n")


@pytest.mark.slow
@pytest.mark.release
def test_sop_with_the_official_counts(tmp_path, no_walk):
    folder = tmp_path / "Stanford_Online_Products"
    folder.mkdir()
    sop_list(folder / "Ebay_train.txt", 1, 11318, 59551)
    with pytest.raises(FileNotFoundError, match="(?s)1 missing.*Ebay_test.txt"):
        load_sop(tmp_path)
    sop_list(folder / "Ebay_test.txt", 11319, 11316, 60502)
    images = load_sop(tmp_path)
    assert images.counts() == {"train": (11318, 59551), "test": (11316, 60502)}
    assert images.class_names[0] == "lamp_final/1" and len(images.class_names) == 22634
    sop_list(folder / "Ebay_test.txt", 11319, 11316, 60501)
    with pytest.raises(ValueError, match="found 11,316 classes, 60,501 images, expected .* 60,502"):
        load_sop(tmp_path)
    sop_list(folder / "Ebay_test.txt", 11318, 11316, 60502)
    with pytest.raises(ValueError, match="class-disjoint.*lamp_final/11318"):
        load_sop(tmp_path)


def test_sop_format_of_another_shop(shared_data, tmp_path, no_walk):
    folder = shared_data / "annotations" / "sop_format"
    images = load_sop(folder, check_counts=False)
    lines = (folder / "Ebay_test.txt").read_text().splitlines()[1:]
    assert images.counts()["test"] == (len({line.split()[1] for line in lines}), len(lines))
    assert images.paths[-1] == f"{folder}/{lines[-1].split()[3]}"


def test_sop_from_its_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "Stanford_Online_Products.zip", "w") as opened:
        for number, split in enumerate(("train", "test"), 1):
            row = f"1 {number} 1 lamp_final/{number}.JPG"
            content = f"image_id class_id super_class_id path\n{row}\n"
            opened.writestr(f"Stanford_Online_Products/Ebay_{split}.txt", content)
            opened.writestr(f"Stanford_Online_Products/lamp_final/{number}.JPG", b"")
        opened.writestr("__MACOSX/._Stanford_Online_Products", b"")
    images = load_sop(tmp_path, check_counts=False)
    assert images.counts() == {"train": (1, 1), "test": (1, 1)}
    (tmp_path / "Stanford_Online_Products" / "Ebay_train.txt").write_text("id path\n")
    with pytest.raises(ValueError, match="first line"):
        load_sop(tmp_path)


def in_shop_list(path, train, test, queries):
    """A partition list of train = (classes, images), test the same, with so many queries."""
    rows, third_queries = [], queries - test[0]
    for item, count in enumerate(np.r_[sizes(*train), sizes(*test)], 1):
        for number in range(count):
            status = "train" if item <= train[0] else ("query", "gallery")[number % 2]
            if status != "train" and number >= 2:
                # each test class has a query and an image in the gallery already
                third_queries -= 1
                status = "query" if third_queries >= 0 else "gallery"
            rows.append(f"img/WOMEN/id_{item:08}/{number}.jpg id_{item:08} {status}")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [str(len(rows)), "image_name item_id evaluation_status", *rows]
    path.write_text("\n".join(lines) + "\n")


def test_in_shop_with_the_official_counts(tmp_path, no_walk):
    (tmp_path / "Img" / "img").mkdir(parents=True)
    path = tmp_path / "Eval" / "list_eval_partition.txt"
    in_shop_list(path, (3997, 25882), (3985, 26830), 14218)
    images = load_in_shop(tmp_path)
    assert images.counts() == {"train": (3997, 25882), "test": (3985, 26830)}
    test = images.subset("test")
    assert (test.is_query ^ test.is_gallery).all()
    assert (test.is_query.sum(), test.is_gallery.sum()) == (14218, 12612)
    assert not images.subset("train").has_gallery()
    assert "(14,218 queries, 12,612 in the gallery)" in str(images)
    in_shop_list(path, (3997, 25882), (3985, 26830), 14217)
    with pytest.raises(ValueError, match="queries, gallery: found 14,217, 12,613, expected 14,218"):
        load_in_shop(tmp_path)


def test_in_shop_files_that_are_wrong(tmp_path, no_walk):
    (tmp_path / "img").mkdir()
    path = tmp_path / "list_eval_partition.txt"
    in_shop_list(path, (2, 4), (2, 4), 2)
    assert len(load_in_shop(tmp_path, check_counts=False)) == 8
    whole = path.read_text()
    for content, message in (
        (whole[: whole.rstrip().rindex("\n")], "lists 7 images, and its first line says '8'"),
        (whole.replace("query", "Query"), "Expected train, query, gallery as status"),
        (whole.replace("item_id", "item"), "second line"),
        ("8\n", "second line .* Received: ''"),
        (whole.replace("query", "gallery"), "0 queries"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_in_shop(tmp_path, check_counts=False)


def test_in_shop_without_photos_where_case_does_not_count(tmp_path, monkeypatch):
    in_shop_list(tmp_path / "Eval" / "list_eval_partition.txt", (2, 4), (2, 4), 2)
    (tmp_path / "Img").mkdir()
    exists = Path.exists
    spelled_img = tmp_path / "img"
    monkeypatch.setattr(Path, "exists", lambda path: path == spelled_img or exists(path))
    with pytest.raises(FileNotFoundError, match="(?s)1 missing.*img.zip"):
        load_in_shop(tmp_path)


def test_in_shop_recall_from_query_to_gallery(tmp_path):
    """From the official layout, images in an archive, to Recall@K by hand."""
    rows = [
        ("img/A/1.jpg", "a", "query", (1.0, 0.0)),
        # its own query's twin would be nearest, if queries were searched among too
        ("img/A/2.jpg", "a", "query", (0.0, 1.0)),
        ("img/A/3.jpg", "a", "gallery", (0.96, 0.28)),
        ("img/B/1.jpg", "b", "query", (0.0, 1.0)),
        ("img/B/2.jpg", "b", "gallery", (-0.28, 0.96)),
        ("img/C/1.jpg", "c", "query", (0.6, 0.8)),
        ("img/C/2.jpg", "c", "gallery", (-1.0, 0.0)),
        ("img/D/1.jpg", "d", "train", (0.0, 0.0)),
        ("img/D/2.jpg", "d", "train", (0.0, 0.0)),
    ]
    (tmp_path / "Eval").mkdir()
    (tmp_path / "Img").mkdir()
    lines = [str(len(rows)), "image_name           item_id      evaluation_status"]
    lines += [f"{path:<50} {item} {status}" for path, item, status, _ in rows]
    (tmp_path / "Eval" / "list_eval_partition.txt").write_text("\n".join(lines))
    with zipfile.ZipFile(tmp_path / "Img" / "img.zip", "w") as opened:
        for path, *_ in rows:
            opened.writestr(path, b"")
    if os.name == "posix":  # where case does not count, Img is found as img too
        (tmp_path / "img").symlink_to(tmp_path / "Img")
    images = load_in_shop(tmp_path, check_counts=False)
    test = images.subset("test")
    points = {path: point for path, _, _, point in rows}
    embeddings = np.array([points[path.removeprefix(f"{tmp_path}/Img/")] for path in test.paths])
    queries, gallery = test.is_query, test.is_gallery
    recalls = recall_at_k(
        embeddings[queries],
        test.labels[queries],
        (1, 2, 3),
        embeddings[gallery],
        test.labels[gallery],
    )
    # a1: a3 0.96 first. a2: b2 0.96, a3 0.28: second. b1: b2 first. c1: a3 0.8, b2 0.6, c2 -0.6
    assert recalls == {1: 2 / 4, 2: 3 / 4, 3: 1.0}
    assert recalls.num_queries == 4 and recalls.num_skipped == 0


def test_grocery(shared_data, tmp_path):
    images = load_grocery(shared_data / "grocery")
    assert len(images) == 5421
    assert images.counts() == {"train": (41, 3051), "test": (40, 2370)}
    assert set(images.labels[images.split == "train"]) == set(range(41))
    assert images.class_names[80] == "Zucchini"
    assert all(images.class_names[k] in images.paths[images.labels == k][0] for k in range(81))
    assert load_grocery(shared_data).paths.tolist() == images.paths.tolist()
    for name in ("train.txt", "val.txt", "classes.csv"):
        shutil.copy(shared_data / "grocery" / name, tmp_path)
    with pytest.raises(FileNotFoundError, match="(?s)1 missing.*test.txt"):
        load_grocery(tmp_path)
    (tmp_path / "test.txt").write_text("test/a.jpg, 1\n")
    with pytest.raises(ValueError, match="path, class id"):
        load_grocery(tmp_path)
    (tmp_path / "test.txt").write_text("test/a.jpg, one, 1\n")
    with pytest.raises(ValueError, match="whole numbers in .*test.txt"):
        load_grocery(tmp_path)
