"""The systems around a loss in a training run: class tree, HDML, curriculum."""

import functools
import json
import re
import shutil

import keras
import numpy as np
import pytest
import report_pages
import small_runs
from small_runs import (
    assert_same_state,
    history,
    kill_9_in_an_epoch,
    train_words,
    write_gradients,
)

from keras_ms.cli.main import main
from keras_ms.curriculum.subsets import CurriculumSubsets
from keras_ms.curriculum.table import write_curriculum
from keras_ms.data.image_list import ImageList
from keras_ms.htl.class_tree import ClassTree
from keras_ms.run.settings import Settings
from keras_ms.run.training_state import SaveRun

fast_map = report_pages.fast_map
small_is_tiny = small_runs.small_is_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_gradients(tmp_path_factory.mktemp("data") / "gradients")


@pytest.fixture(scope="module")
def table(folder):
    """Of each class 4 clean images, 2 noisy and 2 highly noisy ones."""
    images = ImageList.from_folder(folder)
    number = len(images)
    subset = np.tile([0, 0, 0, 0, 1, 1, 2, 2], number // 8).astype(np.int8)
    density = np.tile(np.arange(8.0)[::-1], number // 8)
    found = CurriculumSubsets(subset, density, np.ones(number), np.tile(np.arange(8) == 0, 16))
    path = folder.parent / "subsets.csv"
    write_curriculum(path, found, images)
    return path


def words_of(system, table):
    return {
        "hierarchical triplet": ("--loss", "hierarchical_triplet", "--neighbour-classes", "2",
                                 "--tree-levels", "4", "--tree-linkage", "single"),
        "hdml": ("--loss", "n_pair", "--hdml", "paper", "--hdml.alpha", "20", "--hdml.beta", "1e3",
                 "--images-per-class", "2"),
        "official hdml": ("--loss", "multi_similarity", "--hdml", "official"),
        "curriculum": ("--curriculum", str(table), "--images-per-class", "2"),
        "neighbours": ("--neighbour-classes", "2"),
        "first margins": ("--loss", "hierarchical_triplet", "--tree-margins", "first",
                          "--neighbour-classes", "2"),
        "n-pair neighbours": ("--loss", "n_pair", "--neighbour-classes", "2"),
    }[system]  # fmt: skip


EXPORTS = {"hierarchical triplet": "saved_model", "hdml": "saved_model,onnx", "curriculum": "onnx"}
_FEW = ("--steps", "6", "--steps-per-epoch", "2")


@pytest.fixture(scope="module")
def finished(folder, table, tmp_path_factory):
    """From a system to its run, trained once for the tests that only read it."""

    @functools.cache
    def run_of(system):
        out = tmp_path_factory.mktemp("finished")
        exports = EXPORTS.get(system, "")
        words = (*words_of(system, table), "--export", exports)
        assert main(train_words(folder, out, *words)) == 0
        return out / "runs" / "run"

    return run_of


@pytest.mark.parametrize(
    "system",
    ["hierarchical triplet", *(pytest.param(n, marks=pytest.mark.slow) for n in list(EXPORTS)[1:])],
)
def test_a_run_exports_the_plain_embedder(finished, system):
    run = finished(system)
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["exports"]) == set(EXPORTS[system].split(","))
    for name in summary["exports"]:
        assert summary["exports"][name]["max_difference"] <= 1e-5
    embedder = keras.saving.load_model(run / "embedder.keras", compile=False)
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3))
    norms = np.linalg.norm(embedder.predict(images, verbose=0), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    names = [layer.name for layer in embedder.layers]
    assert names == ["image", "backbone", "pool", "embedding", "l2"]
    assert all(np.isfinite(float(row["loss"])) for row in history(run))


def test_a_hierarchical_triplet_run_keeps_its_tree(finished):
    run = finished("hierarchical triplet")
    tree = ClassTree.load(run / "class_tree.npz")
    summary = json.loads((run / "summary.json").read_text())
    assert tree.nodes.shape == (summary["data"]["train"][0], 5)
    assert (run / "class_tree.png").stat().st_size > 10_000


@pytest.mark.slow
def test_an_hdml_run_logs_and_draws_the_hardness(finished):
    run = finished("hdml")
    shares = [float(row["lambda"]) for row in history(run)]
    assert shares[0] > 0.99 and shares[-1] < shares[0]
    assert (run / "hardness.png").stat().st_size > 10_000


def test_a_curriculum_draws_stage_by_stage_at_a_rate_that_starts_again(folder, table, tmp_path):
    from keras_ms.run.data import run_data
    from keras_ms.run.model import build_models, compile_model, run_loss

    settings = Settings.from_values(
        data_dir=str(folder), curriculum=str(table), steps=6, steps_per_epoch=2, image_size=16,
        classes_per_batch=3, images_per_class=2, runs_folder=str(tmp_path), validation_fraction=0.0,
        learning_rate=0.1,
    )  # fmt: skip
    images = ImageList.from_folder(folder)
    models = build_models(settings, images.subset("train").labels, loss=run_loss(settings))
    data = run_data(settings, images, features_model=models.features_model, log=print)
    assert data.stages == 3
    weights = [batch[2].numpy() for batch in data.training(start_step=0).take(6)]
    assert all((step == 1).all() for step in weights[:2])
    assert set(np.unique(np.concatenate(weights[2:]))) == {0.5, 1}
    compile_model(settings, models, stages=data.stages)
    rates = [float(models.trained.optimizer._learning_rate(step)) for step in range(6)]
    assert rates == pytest.approx([0.1, 0.05] * 3)


@pytest.mark.parametrize(
    "system, words",
    [
        ("hierarchical triplet", ["Class tree", "The class tree before the last epoch"]),
        pytest.param(
            "neighbours",
            ["Near classes", "batches of groups of 2 near classes"],
            marks=pytest.mark.slow,
        ),
        pytest.param("hdml", ["Hardness-aware", "synthetic share"], marks=pytest.mark.slow),
        pytest.param(
            "curriculum", ["Curriculum", "in stages, by curriculum.csv"], marks=pytest.mark.slow
        ),
    ],
)
def test_the_report_tells_of_it_and_works_before_the_end(finished, tmp_path, system, words):
    run, page = tmp_path / "unfinished", tmp_path / "page.html"
    shutil.copytree(finished(system), run, ignore=shutil.ignore_patterns("embedder.keras"))
    assert main(["report", str(run), "--to", str(page)]) == 0
    text = page.read_text()
    assert all(word in text for word in words)
    assert "the run is not finished" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "system, frozen",
    [
        ("hierarchical triplet", "--freeze-backbone"),
        ("hdml", "--freeze-backbone"),
        ("n-pair neighbours", "--freeze-backbone"),
        # a curriculum: below
        ("first margins", "--no-freeze-backbone"),
        ("official hdml", "--no-freeze-backbone"),
    ],
)
def test_an_interrupted_run_resumes(folder, table, tmp_path, monkeypatch, system, frozen):
    more = (*words_of(system, table), frozen, *_FEW, "--image-size", "16", "--export", "")
    assert main(train_words(folder, tmp_path / "whole", *more)) == 0

    def interrupt_the_second_epoch(self, batch, logs=None):
        if len(self.history) == 1 and batch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SaveRun, "on_train_batch_end", interrupt_the_second_epoch)
        assert main(train_words(folder, tmp_path / "cut", *more)) == 130
    run = tmp_path / "cut" / "runs" / "run"
    assert len(history(run)) == 1
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_state(run, tmp_path / "whole" / "runs" / "run")


@pytest.mark.slow
def test_a_curriculum_resumes_in_every_stage_with_the_table_it_began_with(
    folder, table, tmp_path, monkeypatch
):
    own = tmp_path / "table.csv"
    shutil.copy(table, own)
    more = ("--curriculum", str(own), "--images-per-class", "2", "--freeze-backbone",
            "--export", "", "--steps", "12", "--steps-per-epoch", "2", "--schedule", "step",
            "--decay-steps", "3")  # fmt: skip
    assert main(train_words(folder, tmp_path / "whole", *more)) == 0
    run = tmp_path / "cut" / "runs" / "run"
    for stage in range(3):

        def interrupt(self, batch, logs=None, epochs=2 * stage + 1):
            if len(self.history) == epochs and batch == 0:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(SaveRun, "on_train_batch_end", interrupt)
            words = ["train", "--resume", str(run)]
            words = words if stage else train_words(folder, tmp_path / "cut", *more)
            assert main(words) == 130
        assert len(history(run)) == 2 * stage + 1
        own.write_text("something else")
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_state(run, tmp_path / "whole" / "runs" / "run")


@pytest.mark.slow
# those with files of their own beside the state
@pytest.mark.parametrize("system", ["hierarchical triplet", "curriculum"])
def test_a_killed_run_resumes(folder, table, tmp_path, system):
    more = (*words_of(system, table), "--export", "", "--steps", "9", "--steps-per-epoch", "3",
            "--image-size", "16", "--freeze-backbone")  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(train_words(folder, whole, *more)) == 0
    run = killed / "runs" / "run"
    kill_9_in_an_epoch(train_words(folder, killed, *more), run)
    assert main(["train", "--resume", "--runs-folder", str(run.parent)]) == 0
    assert_same_state(run, whole / "runs" / "run")


@pytest.mark.parametrize(
    "words, message",
    [
        (("--tree-levels", "4"), "tree_levels.*hierarchical_triplet"),
        (("--hdml", "paper", "--neighbour-classes", "2"), "neighbour_classes=2 and hdml=paper"),
        (("--loss", "hierarchical_triplet", "--neighbour-classes", "3"), "divisor"),
        (("--hdml.alpha", "2"), "hdml=off has no option 'alpha'.*leave it out"),
        (("--hdml", "paper", "--loss", "hierarchical_triplet"), "one of loss=hierarchical_triplet"),
        (("--hdml", "paper", "--hdml.gamma", "2"), "gamma.*lambda_g"),
        (("--hdml", "paper", "--devices", "2"), "devices.*1 with hdml"),
        (("--hdml", "paper", "--loss", "n_pair"), "images_per_class.*2 with hdml and n_pair"),
        (("--hdml", "paper", "--hdml.generator_learning_rate=-1"),
         "generator_learning_rate.*above 0"),
        (("--curriculum", "nowhere.csv"), "nowhere.csv"),
        (("--curriculum", "TABLE", "--neighbour-classes", "2"), "neighbour_classes=2 and a curric"),
        (("--curriculum", "TABLE", "--steps", "2", "--steps-per-epoch", "1"), "at least 3 steps"),
        (("--curriculum", "TABLE", "--schedule", "step", "--decay-steps", "7"),
         "between 0 and 4, the steps of a stage"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(folder, table, tmp_path, capsys, words, message):
    words = [str(table) if word == "TABLE" else word for word in words]
    # an option that --hdml has not is a wrong word
    code = 2 if "--hdml.gamma" in words else 1
    assert main(train_words(folder, tmp_path, *words)) == code
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "runs" / "run" / "settings.json").exists()
