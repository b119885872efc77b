"""RecallAtK: what it logs and when, the best weights, runs that go on."""

import csv
import math
import os
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
from small_fits import IMAGES, LABELS, NUM_CLASSES, embedder, fit, rows

from keras_ms.callbacks import InterpolateWeights, KeepBestWeights, RecallAtK
from keras_ms.evaluation.retrieval import recall_at_k


@pytest.mark.parametrize(
    "mode", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}]
)
def test_logs_the_recall_of_the_current_weights(mode):
    model, validation = embedder(**mode), rows(70, seed=5)
    recall = RecallAtK(validation, ks=(1, 4), batch_size=32)
    history = fit(model, [recall])
    assert list(history) == ["loss", "val_recall@1", "val_recall@4"]
    expected = recall_at_k(model(validation[0], training=False), validation[1], (1, 4))
    assert history["val_recall@1"][-1] == expected[1]
    assert history["val_recall@4"][-1] == expected[4]
    assert all(type(value) is float for value in history["val_recall@1"])
    assert history["val_recall@1"][-1] > 1 / NUM_CLASSES  # better than chance: it learned
    assert [step for step, _ in recall.history] == [0, 5, 10, 15]


def test_an_embedder_within_the_trained_model_is_measured():
    inner = embedder()
    classifier = keras.Sequential([inner, keras.layers.Dense(NUM_CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=True)
    of_embeddings = RecallAtK((IMAGES, LABELS), embedder=inner)
    of_outputs = RecallAtK((IMAGES, LABELS), prefix="output_")
    best = KeepBestWeights(of_embeddings, restore=True)
    history = fit(classifier, [of_embeddings, best, of_outputs])
    expected = recall_at_k(inner(IMAGES, training=False), LABELS)
    assert of_embeddings.best_value == expected[1]  # the whole model's best weights came back
    assert of_embeddings.best_value == max(history["val_recall@1"])
    assert history["val_recall@1"] != history["output_recall@1"]
    assert of_embeddings.best_step == 5 * (1 + np.argmax(history["val_recall@1"]))


def test_neighbouring_callbacks_use_the_values(tmp_path):
    # without learning nothing improves: patience must end the run
    model, log = embedder(optimizer=keras.optimizers.SGD(0.0)), tmp_path / "log.csv"
    stop = keras.callbacks.EarlyStopping("val_recall@1", mode="max", patience=2)
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", "val_recall@1", mode="max", save_best_only=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        recall = RecallAtK((IMAGES, LABELS))
        fit(model, [recall, stop, best, keras.callbacks.CSVLogger(log)], epochs=10)
    assert stop.stopped_epoch == 2
    assert best.best == recall.best_value
    assert (tmp_path / "best.keras").exists()
    logged = list(csv.DictReader(log.read_text().splitlines()))
    assert len(logged) == 3
    assert float(logged[0]["val_recall@1"]) == recall.history[0][1][1]


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_every_steps(steps_per_execution):
    model = embedder(steps_per_execution=steps_per_execution)
    recall = RecallAtK((IMAGES, LABELS), every_steps=4)
    history = fit(model, [recall], epochs=3)  # 5 steps each
    steps = [step for step, _ in recall.history]
    assert steps == ([0, 4, 8, 12] if steps_per_execution == 1 else [0, 4, 9, 12])
    assert history["val_recall@1"] == [recalls[1] for _, recalls in recall.history[1:]]


def test_every_steps_beyond_the_first_epoch_still_logs():
    history = fit(embedder(), [RecallAtK((IMAGES, LABELS), every_steps=7)], epochs=3)
    assert len(history["val_recall@1"]) == 3


def test_steps_go_on_in_a_second_fit():
    model, recall = embedder(), RecallAtK((IMAGES, LABELS))
    fit(model, [recall], epochs=1)
    fit(model, [recall], epochs=1)
    assert [step for step, _ in recall.history] == [0, 5, 10]
    resumed = RecallAtK((IMAGES, LABELS))
    fit(model, [resumed], epochs=1)
    assert [step for step, _ in resumed.history] == [10, 15]
    assert resumed.history[0][1] == recall.history[-1][1]


def test_the_start_is_left_out_on_request_and_where_a_run_goes_on():
    plain = RecallAtK((IMAGES, LABELS), at_start=False)
    continued = RecallAtK((IMAGES, LABELS))
    continued.best_value, continued.best_step = 0.5, 20
    fit(embedder(), [plain, continued], epochs=1)
    for recall in (plain, continued):
        assert [step for step, _ in recall.history] == [5]


def test_a_start_that_is_known_is_not_embedded_again(monkeypatch):
    embedded = []
    measured = RecallAtK((IMAGES, LABELS), ks=(1, 2))
    fit(embedder(), [measured], epochs=1)
    known = RecallAtK((IMAGES, LABELS), ks=(1, 2), at_start={1: 0.25, 2: 0.5, 4: 0.75})
    best = KeepBestWeights(known)
    monkeypatch.setattr(
        known, "_embed", lambda embed=known._embed: embedded.append(known.step) or embed()
    )
    fit(embedder(), [known, best], epochs=1)
    assert embedded == [5]
    (step, start), (_, after) = known.history
    assert step == 0 and start == {1: 0.25, 2: 0.5}
    assert (start.num_queries, start.num_skipped) == (after.num_queries, after.num_skipped)
    assert after == measured.history[1][1]
    assert best.weights is not None and known.best_value == max(start[1], after[1])


def test_a_start_without_each_k_is_refused():
    with pytest.raises(ValueError, match=r"each of ks=\(1, 2, 4, 8\).*\{1: 0.5\}"):
        RecallAtK((IMAGES, LABELS), at_start={1: 0.5})


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = embedder()
    finally:
        keras.config.set_dtype_policy("float32")
    history = fit(model, [RecallAtK((IMAGES, LABELS))], epochs=1)
    assert 0 < history["val_recall@1"][0] <= 1


def test_divergence_is_logged_as_nan_with_one_warning():
    model = embedder(optimizer=keras.optimizers.SGD(float("nan")))
    recall = RecallAtK((IMAGES, LABELS), at_start=False)
    best = KeepBestWeights(recall)
    with pytest.warns(UserWarning, match="80 of 80 embeddings hold NaN") as caught:
        history = fit(model, [recall, best], epochs=3)
    assert len([w for w in caught if "hold NaN" in str(w.message)]) == 1
    assert all(math.isnan(value) for value in history["val_recall@1"])
    assert recall.best_value is None and best.weights is None


def test_verbose_prints_one_line_for_each_measurement(capsys):
    model = embedder()
    fit(model, [RecallAtK((IMAGES, LABELS), ks=(1,))], epochs=2)
    assert capsys.readouterr().out == ""
    fit(model, [RecallAtK((IMAGES, LABELS), ks=(1,), verbose=1)], epochs=2)
    lines = capsys.readouterr().out.split("\n")
    assert [line[:18] for line in lines if line] == [
        "step 10: recall@1 ",
        "step 15: recall@1 ",
        "step 20: recall@1 ",
    ]


@pytest.mark.slow
def test_two_replicas_measure_what_one_does():
    script = """
        import keras
        import numpy as np
        import tensorflow as tf
        from keras_ms.callbacks import RecallAtK
        from keras_ms.evaluation.retrieval import recall_at_k

        processor = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, logical)
        rng = np.random.default_rng(0)
        images = rng.standard_normal((50, 8)).astype("float32")
        labels = np.arange(50) % 5
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
            model.compile("sgd", "mse")
        recall = RecallAtK((images, labels), batch_size=32)
        history = model.fit(
            images, np.zeros((50, 4)), batch_size=10, callbacks=[recall], verbose=0
        ).history
        embeddings = images @ model.layers[0].kernel.numpy() + model.layers[0].bias.numpy()
        expected = recall_at_k(embeddings, labels)
        assert [history[f"val_recall@{k}"][0] for k in (1, 2, 4, 8)] == list(expected.values())
        print("same")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip().endswith("same"), run.stderr[-2000:]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"at_start": {1: 31.0}}, r"`at_start\[1\]` >= 0 and <= 1.*a share, not a percentage.*31"),
        ({"at_start": {1: float("nan")}}, "at_start.*nan"),
        ({"at_start": {2: 0.5}}, "recall of each of ks"),
        ({"at_start": 3}, "True or False. Received: 3"),
        ({"batch_size": 0}, "`batch_size`.*whole number.*Received: 0"),
        ({"embedder": 3}, "`embedder` as the keras.Model.*Received: 3"),
        ({"images": 3}, "`images` as the keras_ms.ImageList.*Received: int"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        RecallAtK((np.eye(4), [0, 0, 1, 1]), ks=(1,), **options)


def test_keepers_are_given_a_recall():
    recall = RecallAtK((np.eye(4), [0, 0, 1, 1]), ks=(1,))
    for keeper in (KeepBestWeights, InterpolateWeights):
        with pytest.raises(ValueError, match="keras_ms.RecallAtK.*Received: 'x'"):
            keeper("x")
    with pytest.raises(ValueError, match="keras_ms.KeepBestWeights.*Received: 'x'"):
        InterpolateWeights(recall, best="x")
