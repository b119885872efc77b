"""Runs with what fine-tuning has: resumed to the bit, chosen by the average, deployed plain."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from small_runs import (
    assert_same_state,
    history,
    kill_9_in_an_epoch,
    train_words,
    write_gradients,
)
from small_transformer import embedder_around, transformer_embedder

from keras_ms.cli.main import main
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import evaluation_batches
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.run.facts import run_facts
from keras_ms.run.folder import RunFolder
from keras_ms.run.training_state import SaveRun

FEW = ("--steps", "6", "--steps-per-epoch", "2", "--export", "")
TUNED = ("--layer-decay", "0.8", "--weight-decay", "0.05", "--warmup-steps", "2", "--clip-norm",
         "0.5", "--ema", "0.6", "--freeze-blocks", "1", "--learning-rate", "0.01")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_gradients(tmp_path_factory.mktemp("data") / "gradients")


@pytest.fixture
def residual(monkeypatch):
    """Runs train a stem and three residual blocks, as small as they can be."""

    def embedder(settings, num_images):
        keras.utils.set_random_seed(0)
        pixels = keras.Input((32, 32, 3), name="image")
        maps = layers.Conv2D(6, 8, strides=8)(layers.Rescaling(1 / 255)(pixels))
        for _ in range(3):
            maps = layers.Add()([maps, layers.Conv2D(6, 1, activation="relu")(maps)])
        backbone = keras.Model(pixels, maps, name="backbone")
        pool = layers.GlobalAveragePooling2D(dtype="float32", name="pool")
        return embedder_around(backbone, settings.model.embedding_size, pool)

    monkeypatch.setattr("keras_ms.run.model.embedder_of", embedder)


@pytest.fixture
def transformer(monkeypatch):
    monkeypatch.setattr(
        "keras_ms.run.model.embedder_of",
        lambda settings, num_images: transformer_embedder(depth=2, side=32, embedding_size=16),
    )


def interrupt_the_second_epoch(self, batch, logs=None):
    if len(self.history) == 1 and batch == 1:
        raise KeyboardInterrupt


def resumed(words, out, monkeypatch):
    """The folder of a run that was interrupted in its second epoch and continued."""
    with monkeypatch.context() as patched:
        patched.setattr(SaveRun, "on_train_batch_end", interrupt_the_second_epoch)
        assert main(words) == 130
    run = out / "runs" / "run"
    assert len(history(run)) == 1
    assert main(["train", "--resume", str(run)]) == 0
    return run


def weights(run, name="embedder.keras"):
    return keras.saving.load_model(run / name, compile=False).get_weights()


@pytest.mark.slow
def test_a_run_with_everything_resumes_and_ends_with_the_average(
    folder, tmp_path, monkeypatch, residual
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(train_words(folder, whole, *FEW, *TUNED)) == 0
    run = resumed(train_words(folder, cut, *FEW, *TUNED), cut, monkeypatch)
    assert_same_state(run, whole / "runs" / "run")
    for a, b in zip(weights(run), weights(whole / "runs" / "run"), strict=True):
        np.testing.assert_array_equal(a, b)

    summary = json.loads((run / "summary.json").read_text())
    # what counts was measured with the average, and is what was saved
    model = keras.saving.load_model(run / "embedder.keras", compile=False)
    images = ImageList.from_folder(folder).subset("test")
    batches = evaluation_batches(images, 32, resize_to=36).map(lambda image, label: image)
    recalls = recall_at_k(model.predict(batches, verbose=0), images.labels, ks=(1, 2))
    assert summary["test_recall"]["chosen"]["1"] == pytest.approx(recalls[1], abs=1e-9)
    facts = run_facts(
        RunFolder(run), RunFolder(run).read_settings(), data_name="photos",
        counts=images.counts(), embedder=model, weights="",
    )  # fmt: skip
    assert facts["Fine-tuning"] == (
        "layer decay 0.8, freeze blocks 1, weight decay 0.05, warmup steps 2, clip norm 0.5, "
        "ema 0.6"
    )
    # a training that is over has nothing left to do but the choice
    (run / "summary.json").unlink()
    assert main(["train", "--resume", str(run)]) == 0
    assert json.loads((run / "summary.json").read_text())["test_recall"] == summary["test_recall"]


@pytest.mark.slow
@pytest.mark.release
def test_killed_and_resumed_is_the_uninterrupted_run(folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(train_words(folder, whole, *FEW, *TUNED)) == 0
    run = killed / "runs" / "run"
    kill_9_in_an_epoch(train_words(folder, killed, *FEW, *TUNED), run)
    assert main(["train", "--resume", "--runs-folder", str(run.parent)]) == 0
    assert_same_state(run, whole / "runs" / "run")


@pytest.mark.slow
@pytest.mark.release
def test_a_head_chosen_by_folds_takes_decay_average_and_warm_up(folder, tmp_path):
    more = ("--freeze-backbone", "--steps", "20", "--ema", "0.8", "--weight-decay", "0.1",
            "--warmup-steps", "3", "--clip-norm", "1", "--export", "")  # fmt: skip
    assert main(train_words(folder, tmp_path, *more, "--steps-per-epoch", "10")) == 0
    summary = json.loads((tmp_path / "runs" / "run" / "summary.json").read_text())
    assert " folds over " in summary["choice"]["by"]


# the start is chosen among too, where batch normalisation keeps its statistics
LORA = ("--lora-rank", "2", "--learning-rate", "0.02", "--gradient-checkpointing", "--interpolate",
        "--frozen-batch-norm", "--ema", "0.5", "--weight-decay", "0.01", "--layer-decay",
        "0.9")  # fmt: skip


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_lora_resumes_to_the_bit(folder, tmp_path, monkeypatch, transformer, precision):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = (*FEW, *LORA, "--precision", precision)
    assert main(train_words(folder, whole, *words)) == 0
    run = resumed(train_words(folder, cut, *words), cut, monkeypatch)
    assert_same_state(run, whole / "runs" / "run")
    for a, b in zip(weights(run), weights(whole / "runs" / "run"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.release
def test_lora_is_merged_interpolated_and_deployed_plain(folder, tmp_path, transformer):
    assert main(train_words(folder, tmp_path, *FEW, *LORA)) == 0
    run = tmp_path / "runs" / "run"
    choice = json.loads((run / "choice.json").read_text())
    assert {one["alpha"] for one in choice["candidates"]} == {0.0, 0.25, 0.5, 0.75, 1.0}

    saved = keras.saving.load_model(run / "embedder.keras", compile=False)
    assert not [v.path for v in saved.weights if "lora" in v.path]
    start, last = (transformer_embedder(2, side=32, embedding_size=16) for _ in range(2))
    last.load_weights(run / "last.weights.h5")
    changed = [
        a.path for a, b in zip(last.weights, start.weights, strict=True) if not np.array_equal(a, b)
    ]
    # the head, and queries and values of two attentions
    assert len([path for path in changed if "encoder" in path]) == 4 and len(changed) == 6


@pytest.mark.parametrize(
    "more, expected",
    [
        (("--lora-rank", "4"), "no query or value projection"),
        (("--freeze-blocks", "3"), "`freeze_blocks` from 1 to 2"),
        (("--gradient-checkpointing",), "would not act"),
    ],
)
def test_what_the_backbone_cannot_do_is_refused_before_the_run(
    folder, tmp_path, capsys, more, expected
):
    assert main(train_words(folder, tmp_path, *FEW, *more)) == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "runs" / "run" / "settings.json").exists()
