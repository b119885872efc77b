"""Sets prepared by tensorflow-datasets: with the package where it is installed, else a stand-in."""

import json
import shutil

import numpy as np
import pytest

from keras_ms.data.sets import prepared_datasets
from keras_ms.data.sets.cars import load_cars
from keras_ms.data.sets.cub import load_cub
from keras_ms.data.sets.sop import load_sop

JPEG, PNG = b"\xff\xd8jpeg", b"\x89PNGpng"


def claim_prepared(data_dir, builder, version="1.0.0"):
    folder = data_dir / builder / version
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"name": builder}))
    return folder


@pytest.mark.parametrize(
    "load, builder, key, last",
    [
        (load_cub, "caltech_birds2011", "label", 100),
        (load_cars, "cars196", "label", 98),
        (load_sop, "stanford_online_products", "class_id", 11318),
    ],
)
def test_split_again_by_class(tmp_path, monkeypatch, load, builder, key, last):
    asked = []
    # 0-based: the last training class and the first test class are neighbours
    ids = [last - 1, last, 0, last, last - 1]

    def examples(folder, label_key):
        asked.append((folder.name, label_key))
        return [(PNG if number == 1 else JPEG, class_id) for number, class_id in enumerate(ids)]

    monkeypatch.setattr(prepared_datasets, "_examples", examples)
    claim_prepared(tmp_path, builder, "1.9.0")
    claim_prepared(tmp_path, builder, "1.10.0")
    claim_prepared(tmp_path, builder, "2.0.0.incompleteABC")
    images = load(tmp_path, check_counts=False)
    assert asked == [("1.10.0", key)]
    assert images.split.tolist() == ["train", "test", "train", "test", "train"]
    assert images.class_names == ("1", str(last), str(last + 1))
    assert images.labels.tolist() == [1, 2, 0, 2, 1]
    assert images.paths[0] == f"{tmp_path}/{builder}_images/{last:05}/000000.jpg"
    assert images.paths[1].endswith(".png") and open(images.paths[1], "rb").read() == PNG
    # the files are read from now on
    assert load(tmp_path, check_counts=False).paths.tolist() == images.paths.tolist()
    assert len(asked) == 1
    with pytest.raises(ValueError, match="expected"):
        load(tmp_path)


def test_an_interrupted_copy_leaves_nothing(tmp_path, monkeypatch):
    def examples(folder, label_key):
        yield JPEG, 0
        raise OSError("unreadable record")

    monkeypatch.setattr(prepared_datasets, "_examples", examples)
    claim_prepared(tmp_path, "caltech_birds2011")
    with pytest.raises(OSError, match="unreadable record"):
        load_cub(tmp_path, check_counts=False)
    assert [path.name for path in tmp_path.iterdir()] == ["caltech_birds2011"]


def test_nothing_is_written_of_a_set_with_other_counts_or_over_other_files(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_datasets, "_examples", lambda *_: [(JPEG, 0), (JPEG, 100)])
    claim_prepared(tmp_path, "caltech_birds2011")
    with pytest.raises(ValueError, match="found 1 classes, 1 images, expected 100 classes"):
        load_cub(tmp_path)
    images = tmp_path / "caltech_birds2011_images"
    assert not images.exists()
    images.mkdir()
    (images / "mine.jpg").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        load_cub(tmp_path, check_counts=False)
    assert [path.name for path in images.iterdir()] == ["mine.jpg"]


def test_unfinished_preparation(tmp_path):
    claim_prepared(tmp_path, "cars196", "2.1.0.incompleteABC")
    with pytest.raises(FileNotFoundError, match="did not finish .*2.1.0.incompleteABC"):
        load_cars(tmp_path)


def test_a_really_prepared_set(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")

    class CaltechBirds2011(tfds.core.GeneratorBasedBuilder):
        """Three birds in the features and splits of the real builder."""

        VERSION = tfds.core.Version("0.1.1")

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(num_classes=200),
                "label_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            splits = {"train": [0, 150], "test": [0]}
            return {name: self._generate_examples(labels) for name, labels in splits.items()}

        def _generate_examples(self, labels):
            for number, label in enumerate(labels):
                image = np.full((4, 5, 3), label, np.uint8)
                yield number, {"image": image, "label": label, "label_name": "bird"}

    CaltechBirds2011(data_dir=tmp_path).download_and_prepare()
    images = load_cub(tmp_path, check_counts=False)
    assert images.counts() == {"train": (1, 2), "test": (1, 1)}
    assert sorted(images.class_names) == ["1", "151"]
    pixels = pytest.importorskip("PIL.Image").open(images.subset("test").paths[0])
    assert np.array_equal(pixels, np.full((4, 5, 3), 150))
    # a lost shard is named
    prepared = tmp_path / "caltech_birds2011" / "0.1.1"
    shard = next(prepared.glob("*train*record*"))
    shard.unlink()
    shutil.rmtree(tmp_path / "caltech_birds2011_images")
    with pytest.raises(FileNotFoundError, match=shard.name):
        load_cub(tmp_path, check_counts=False)
