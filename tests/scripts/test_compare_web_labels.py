"""The comparison on labels of a crawl: what its noise is, and a run from photos to a table."""

import json

import numpy as np
import pytest
from PIL import Image

WORDS = ["--backbone", "small", "--image-size", "32", "--steps", "3"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend("scripts")
    import compare_web_labels

    return compare_web_labels


@pytest.fixture
def folders(tmp_path):
    """(photos of four classes, twenty each, each class of one colour; foreign ones)."""
    rng = np.random.default_rng(0)
    for name, classes, count in (("photos", 4, 20), ("foreign", 2, 10)):
        for label in range(classes):
            folder = tmp_path / name / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (32, 32, 3)) + 40 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos", tmp_path / "foreign"


def test_the_parts_have_every_class_and_share_no_photo(script, folders):
    images = script.ImageList.from_folder(folders[0], test_fraction=0)
    parts = script.divided(images)
    assert {name: len(part) for name, part in parts.items()} == {
        "test": 20, "validation": 12, "train": 48,
    }  # fmt: skip
    for part in parts.values():
        assert len(set(np.bincount(part.labels))) == 1
    assert len(set(np.concatenate([part.paths for part in parts.values()]))) == len(images)


def test_a_crawl_confuses_mixes_and_repeats_and_says_which_labels_are_wrong(script, folders):
    images, foreign = (script.ImageList.from_folder(one, test_fraction=0) for one in folders)
    similarity = np.eye(4)[[1, 0, 3, 2]]  # 0 and 1, 2 and 3 are alike
    found, wrong = script.crawled(images, foreign, similarity, seed=1)
    true_label = dict(zip(images.paths, images.labels))
    is_foreign = np.isin(found.paths, foreign.paths)
    for path, label, is_wrong in zip(found.paths, found.labels, wrong):
        assert is_wrong == (true_label.get(path) != label)
        if is_wrong and path in true_label:
            assert true_label[path] == [1, 0, 3, 2][label]
    counts = np.bincount(found.labels[~is_foreign & ~wrong], minlength=4)
    assert len(set(counts)) > 1  # classes of other sizes
    distinct = len(set(found.paths))
    assert len(found) - distinct == round(0.1 * distinct)
    assert is_foreign[:distinct].mean() == pytest.approx(0.15, abs=0.02)


@pytest.mark.slow
@pytest.mark.release
def test_from_photos_to_a_table(script, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "LEARNING_RATES", (1e-3,))
    words = ["--data-dir", folders[0], "--foreign", folders[1], "--to", tmp_path / "results"]
    words += ["--seeds", 1]
    given = script.parsed([*map(str, words), *WORDS])
    experiment = script.Experiment(given)
    lines = script.tables(experiment, given)
    assert [line.split(" | ")[0] for line in lines[4:]] == [f"| {name}" for name in script.METHODS]
    # a curriculum is measured after each stage, all at once in the end
    everything, _, curriculum, *_ = (line.split(" | ") for line in lines[4:])
    assert everything[1:3] == ["–", "–"] and "–" not in curriculum
    trained = (tmp_path / "results" / "results.jsonl").read_text()
    assert script.tables(experiment, given) == lines
    clean = next(
        line for line in map(json.loads, trained.splitlines()) if "clean" in line["method"]
    )
    assert clean["wrong"] == [0.0] and 0 <= clean["wrong_learned"] <= 1
    assert (tmp_path / "results" / "results.jsonl").read_text() == trained
