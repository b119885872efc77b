"""Every recipe is a valid run, and names its command, source, expected figure and cost."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from keras_ms.run.settings import Settings
from keras_ms.run.settings.defaults import CLASSES_PER_BATCH, situation
from keras_ms.run.settings.earlier import translated

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "recipe")

# Recall@1 in %: the published results, and what docs/results.md measured
PUBLISHED = {
    "cub_ms_official": "65.7",
    "cars_ms_official": "84.1",
    "sop_ms_official": "78.2",
    "in_shop_ms_official": "89.7",
    "cub_ms_independent": "66.14",
    "cars_ms_independent": "84.07",
    "sop_ms_independent": "76.29",
    "in_shop_ms_independent": "88.11",
    "cub_ms_inception_v3": "none published",
    "cub_ms_resnet50": "none published",
}

# the K of Recall@K that each benchmark's papers report
PROTOCOL = {
    "cub": (1, 2, 4, 8, 16, 32),
    "cars": (1, 2, 4, 8, 16, 32),
    "sop": (1, 10, 100, 1000),
    "in_shop": (1, 10, 20, 30, 40, 50),
}


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def recipe(request, monkeypatch):
    """(path, docstring, SETTINGS)"""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = runpy.run_path(str(request.param))
    return request.param, names["__doc__"], names["SETTINGS"]


def line_of(doc, label):
    """What follows `label:` up to the next label or the end, on one line."""
    found = re.search(rf"^{label}: (.+?)(?=^\w[\w@ ]*: |\Z)", doc, re.MULTILINE | re.DOTALL)
    assert found, f"no line '{label}:'"
    return " ".join(found.group(1).split())


def test_settings_are_valid_and_all_are_fields(recipe):
    _, _, given = recipe
    settings = Settings.from_values(**given)
    assert settings.data.dataset != "auto"
    if settings.data.dataset in PROTOCOL:
        assert settings.evaluation.ks == PROTOCOL[settings.data.dataset]
    assert settings.values().items() >= translated(given).items()


def test_the_command_runs_this_file(recipe):
    path, doc, _ = recipe
    assert re.search(rf"^    python scripts/recipes/{path.name} --data-dir \S+", doc, re.MULTILINE)


def test_source_expected_figure_and_cost_are_named(recipe):
    path, doc, given = recipe
    assert len(line_of(doc, "Source")) > 20
    expected = line_of(doc, "Expected Recall@1")
    assert re.match(r"\d\d\.\d+ \(.+\)|none published|none measured", expected)
    if path.stem in PUBLISHED:
        assert expected.startswith(PUBLISHED[path.stem])
    settings = Settings.from_values(**given)
    classes = settings.batches.classes_per_batch or CLASSES_PER_BATCH[situation(settings)]
    images = settings.training.steps * classes * settings.batches.images_per_class
    assert line_of(doc, "Cost").startswith(f"{images:,} training images")
    assert re.search(r"hour|minute|second", line_of(doc, "Cost"))


def test_the_published_results_all_have_a_recipe():
    assert set(PUBLISHED) <= {path.stem for path in RECIPES}


def test_the_independent_recipes_are_those_of_the_table():
    rows = {
        "cub": (1e-5, 0.5e-5, (3000, 6000), 8000, 2.5e-3),
        "cars": (2e-5, 2e-5, (2000,), 8000, 2.5e-3),
        "sop": (2.5e-4, 0.5e-4, (6000,), 12000, 1e-5),
        "in_shop": (5e-4, 1e-4, (6000,), 12000, 1e-5),
    }
    sys.path.insert(0, str(FOLDER))
    try:
        for name, row in rows.items():
            given = runpy.run_path(str(FOLDER / f"{name}_ms_independent.py"))["SETTINGS"]
            settings = Settings.from_values(**given)
            found = (
                settings.training.learning_rate,
                settings.training.backbone_learning_rate,
                settings.training.decay_boundaries(),
                settings.training.steps,
                settings.training.coupled_l2,
            )
            assert found == row
    finally:
        sys.path.remove(str(FOLDER))


def test_a_recipe_runs_with_options_over_its_settings(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    seen = []
    monkeypatch.setattr(
        "keras_ms.run.training.train", lambda settings, resume: seen.append(settings)
    )
    monkeypatch.setattr(sys, "argv", ["omniglot.py", "--data-dir", "there", "--steps", "1200"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / "omniglot.py"), run_name="__main__")
    assert ended.value.code == 0
    given = runpy.run_path(str(FOLDER / "omniglot.py"))["SETTINGS"]
    assert seen == [Settings.from_values(**given).with_values(data_dir="there", steps=1200)]


def test_a_recipe_resumes_with_the_settings_of_its_run(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    seen = []
    monkeypatch.setattr("keras_ms.run.training.train", lambda settings, resume: seen.append(resume))
    monkeypatch.setattr(sys, "argv", ["omniglot.py", "--resume", "runs/one"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(FOLDER / "omniglot.py"), run_name="__main__")
    assert seen == ["runs/one"]


# what a setting that a recipe leaves out was when its figure was measured
MEASURED_WITH = {
    "validation_fraction": 0.1, "image_size": 64, "crop_scale": 0.16, "embedding_size": 128,
    "head_initializer": "orthogonal", "tune": "off", "interpolate": False,
    "classes_per_batch": 32, "images_per_class": 4, "steps": 600, "steps_per_epoch": 100,
    "learning_rate": 2e-3, "backbone_learning_rate": None,
}  # fmt: skip
# measured anew with the defaults of today
MEASURED_ANEW = ("cub200_2010_head", "grocery")


def test_a_recipe_trains_as_when_its_figure_was_measured(recipe):
    path, _, given = recipe
    if path.stem in MEASURED_ANEW:
        pytest.skip("its figure is that of the defaults")
    settings = Settings.from_values(**given)
    for name, value in MEASURED_WITH.items():
        expected = given.get(name, value)
        if (
            name == "backbone_learning_rate"
            and settings.model.weights
            and not settings.model.freeze_backbone
        ):
            # one rate for all where a recipe gave none for the backbone
            expected = settings.training.learning_rate if expected is None else expected
        assert settings.values()[name] == expected, name
