"""Every recipe is a valid run, and names its command, source, expected figure and cost."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from keras_ms.run.settings import Settings
from keras_ms.run.settings.defaults import CLASSES_PER_BATCH, situation

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "recipes"
FAMILIES = ("official", "independent", "cub200_2010", "grocery", "omniglot", "photos")

# Recall@1 in %: the published results
PUBLISHED = {
    "official cub": "65.7",
    "official cars": "84.1",
    "official sop": "78.2",
    "official in_shop": "89.7",
    "independent cub": "66.14",
    "independent cars": "84.07",
    "independent sop": "76.29",
    "independent in_shop": "88.11",
    "official cub_inception_v3": "none published",
    "official cub_resnet50": "none published",
}
# and what docs/results.md, transfer.md, hdml.md, hierarchical_triplet.md, curriculum.md and
# backbones.md measured
MEASURED = {
    "cub200_2010 head": "61.3",
    "cub200_2010 finetuned": "65.3",
    "cub200_2010 hierarchical_triplet": "55.8",
    "grocery head": "96.1",
    "grocery curriculum": "95.4",
    "photos head": "55.6",
    "omniglot multi_similarity": "91.7",
    "omniglot hdml": "79.2",
    "omniglot hierarchical_triplet": "85.3",
}

# the K of Recall@K that each benchmark's papers report
PROTOCOL = {
    "cub": (1, 2, 4, 8, 16, 32),
    "cars": (1, 2, 4, 8, 16, 32),
    "sop": (1, 10, 100, 1000),
    "in_shop": (1, 10, 20, 30, 40, 50),
}


@pytest.fixture
def families(monkeypatch):
    """Each family's module, as a dict of its names."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return {name: runpy.run_path(str(FOLDER / f"{name}.py")) for name in FAMILIES}


@pytest.fixture(params=PUBLISHED | MEASURED)
def recipe(request, families):
    """(family and name, its `Recipe`, its settings)"""
    family, name = request.param.split()
    recipe = families[family]["RECIPES"][name]
    return request.param, recipe, recipe.settings


def _run(monkeypatch, *words):
    """Runs a recipe as typed; returns what train was called with."""
    monkeypatch.syspath_prepend(str(FOLDER))
    calls = []
    monkeypatch.setattr(
        "keras_ms.run.training.train", lambda settings, resume: calls.append((settings, resume))
    )
    # data and weights of the recipes are not here
    monkeypatch.setattr("keras_ms.cli.train.check_is_there", lambda path, expected: None)
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / words[0]), run_name="__main__")
    assert not ended.value.code
    return calls


def test_every_recipe_has_a_figure_here(families):
    names = {f"{family} {name}" for family in FAMILIES for name in families[family]["RECIPES"]}
    assert names == set(PUBLISHED | MEASURED)
    assert {path.stem for path in FOLDER.glob("*.py")} == {*FAMILIES, "recipe"}


def test_settings_are_valid_and_all_are_fields(recipe):
    _, _, given = recipe
    settings = Settings.from_values(**given)
    assert settings.data.dataset != "auto"
    if settings.data.dataset in PROTOCOL:
        assert settings.evaluation.ks == PROTOCOL[settings.data.dataset]
    assert settings.values().items() >= given.items()


def test_source_expected_figure_and_cost_are_named(recipe):
    name, said, given = recipe
    assert len(said.source) > 20
    assert re.match(r"\d\d\.\d+ \(.+\)|none published", said.expected)
    assert said.expected.startswith((PUBLISHED | MEASURED)[name])
    assert ("(measured" in said.expected) == (name in MEASURED)
    settings = Settings.from_values(**given)
    classes = settings.batches.classes_per_batch or CLASSES_PER_BATCH[situation(settings)]
    images = settings.training.steps * classes * settings.batches.images_per_class
    assert said.cost.startswith(f"{images:,} training images")
    assert re.search(r"hour|minute|second", said.cost)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_lists_its_recipes(family, families, monkeypatch, capsys):
    assert _run(monkeypatch, f"{family}.py") == _run(monkeypatch, f"{family}.py", "--help") == []
    once, again = (text for text in capsys.readouterr().out.split("usage: ") if text)
    assert once == again
    for name, said in families[family]["RECIPES"].items():
        command = f"python {FOLDER / family}.py {name} --data-dir {said.data_dir}"
        assert f"    {command}\n" in f"{once}\n"
        for words in (said.title, said.source, said.expected, said.cost, said.note):
            assert " ".join(words.split()) in " ".join(once.split())


def test_the_independent_recipes_are_those_of_the_table(families):
    rows = {
        "cub": (1e-5, 0.5e-5, (3000, 6000), 8000, 2.5e-3),
        "cars": (2e-5, 2e-5, (2000,), 8000, 2.5e-3),
        "sop": (2.5e-4, 0.5e-4, (6000,), 12000, 1e-5),
        "in_shop": (5e-4, 1e-4, (6000,), 12000, 1e-5),
    }
    for name, row in rows.items():
        settings = Settings.from_values(**families["independent"]["RECIPES"][name].settings)
        assert row == (
            settings.training.learning_rate,
            settings.training.backbone_learning_rate,
            settings.training.decay_boundaries(),
            settings.training.steps,
            settings.training.coupled_l2,
        )


@pytest.mark.parametrize("words", [("hdml",), ()])
def test_a_recipe_runs_with_options_over_its_settings(words, families, monkeypatch):
    options = ("--data-dir", "there", "--steps", "1200")
    calls = _run(monkeypatch, "omniglot.py", *words, *options)
    said = families["omniglot"]["RECIPES"][words[0] if words else "multi_similarity"]
    given = Settings.from_values(**said.settings)
    assert calls == [(given.with_values(data_dir="there", steps=1200), None)]


def test_options_of_losses_reach_the_run(families):
    recipes = families["omniglot"]["RECIPES"]
    hdml = Settings.from_values(**recipes["hdml"].settings)
    assert hdml.hdml.options == {"alpha": 1, "beta": 1000}
    hierarchical = Settings.from_values(**recipes["hierarchical_triplet"].settings)
    assert hierarchical.loss.options == {"beta": 0.1}


@pytest.mark.parametrize("words", [("hdml",), ()])
def test_a_recipe_resumes_with_the_settings_of_its_run(words, monkeypatch):
    calls = _run(monkeypatch, "omniglot.py", *words, "--resume", "runs/one")
    assert [resume for _, resume in calls] == ["runs/one"]
    assert _run(monkeypatch, "official.py", "--resume")[0][1] == "latest"


@pytest.mark.parametrize(
    "words, expected",
    [
        (("omniglot.py", "hdm"), r"one of multi_similarity, hdml, .*'hdm'. Did you mean 'hdml'\?"),
        (("omniglot.py", "birds", "--resume"), "one of .* Received: 'birds'\n"),
        (("official.py", "--seed", "1"), "one of cub, .* Received options alone"),
    ],
)
def test_a_name_that_is_none_is_refused(words, expected, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(FOLDER / words[0]), run_name="__main__")
    assert re.search(expected, capsys.readouterr().err)


# what a setting that a recipe leaves out was when its figure was measured
MEASURED_WITH = {
    "validation_fraction": 0.1, "image_size": 64, "crop_scale": 0.16, "embedding_size": 128,
    "head_initializer": "orthogonal", "tune": "off", "interpolate": False,
    "classes_per_batch": 32, "images_per_class": 4, "steps": 600, "steps_per_epoch": 100,
    "learning_rate": 2e-3, "backbone_learning_rate": None,
}  # fmt: skip
# measured anew with the defaults of today
MEASURED_ANEW = ("cub200_2010 head", "grocery head", "photos head")


def test_a_recipe_trains_as_when_its_figure_was_measured(recipe):
    recipe_name, _, given = recipe
    if recipe_name in MEASURED_ANEW:
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
