"""Pairs across devices: MirroredStrategy on two, and two processes, equal one device."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_runs import WITH_TINY_NETWORK

import keras_ms
from keras_ms.pairs import replicas
from keras_ms.run.settings import Settings

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def differences():
    """Between one device and two, from a process of its own."""
    done = subprocess.run(
        [sys.executable, TESTS / "two_devices.py"], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.xdist_group("differences")
@pytest.mark.parametrize(
    "case",
    ["sgd", "adam", "sum", "weighted mean of masked items", "hierarchical triplet", "empty part"],
)
def test_20_steps_on_two_devices_equal_one(differences, case):
    found = differences["fits"][case]
    assert found["moved"] > 0.1
    assert found["weights"] <= 1e-6
    assert found["mined_anchors"] <= 1e-6


@pytest.mark.slow
@pytest.mark.xdist_group("differences")
def test_the_logged_loss_is_that_of_the_global_batch(differences):
    # parts of any sizes, those of the last batch of one item included
    for case, found in differences["fits"].items():
        assert found["loss"] <= 2e-6, case


@pytest.mark.slow
@pytest.mark.xdist_group("differences")
def test_whatever_is_logged_of_uneven_parts_is_what_one_device_logs(differences):
    logs = differences["logs"]
    assert {"sum, masked", "mean_with_sample_weight, masked", "composite"} <= set(logs)
    wrong = {
        case: found for case, found in logs.items() if not all(v <= 5e-6 for v in found.values())
    }
    assert not wrong


@pytest.mark.slow
@pytest.mark.xdist_group("differences")
def test_a_label_without_a_proxy_stops_several_replicas(differences):
    assert "from 0 to 2, one for each proxy" in differences["unknown label"]


@pytest.mark.slow
@pytest.mark.xdist_group("differences")
def test_recall_is_measured_on_all_replicas(differences):
    assert differences["fits"]["sgd"]["val_recall@1"] <= 1e-6


@pytest.mark.slow
@pytest.mark.xdist_group("differences")
def test_every_loss_has_the_gradient_of_the_global_batch(differences):
    found = differences["gradients"]
    assert {"MultiSimilarityLoss", "HierarchicalTripletLoss"} <= set(found)
    wrong = {
        name: errors for name, errors in found.items()
        # relative to the largest entry; the histogram's is 60 times smaller than a pair's weight
        if not (errors["value"] <= 1e-6 and errors["gradient"] <= 5e-6)
    }  # fmt: skip
    assert not wrong


def free_addresses(number):
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.mark.slow
def test_the_documented_loop_on_two_workers_equals_one(tmp_path):
    text = (TESTS.parent / "docs" / "devices.md").read_text()
    code = re.search(r"<!-- worker -->\n```python\n(.*?)```", text, re.DOTALL).group(1)
    (tmp_path / "worker.py").write_text(code)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 6)).astype("float32")
    labels = 2**40 + np.repeat(np.arange(20), 10)
    np.savez(tmp_path / "features.npz", features=features, labels=labels)

    cluster = {"worker": free_addresses(2)}
    workers = [
        subprocess.Popen(
            [sys.executable, "worker.py", "features.npz"],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(TESTS.parent),
                "TF_CONFIG": json.dumps(
                    {"cluster": cluster, "task": {"type": "worker", "index": index}}
                ),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        printed = [worker.communicate(timeout=1800) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], printed

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16)])
    start = model.get_weights()[0]
    model.compile(keras.optimizers.Adam(0.01), keras_ms.MultiSimilarityLoss())
    batches = keras_ms.balanced_batches((features, labels), classes_per_batch=8, images_per_class=4)
    losses = model.fit(batches, steps_per_epoch=1, epochs=20, shuffle=False, verbose=0)
    one = model.get_weights()
    model.load_weights(tmp_path / "last.weights.h5")
    assert np.abs(one[0] - start).max() > 0.1
    for weights, expected in zip(model.get_weights(), one):
        np.testing.assert_allclose(weights, expected, atol=1e-6)
    expected = losses.history["loss"][-1]
    for output, _ in printed:
        assert float(output.split()[-1]) == pytest.approx(expected, abs=1e-5)


TRAINING = f"""{WITH_TINY_NETWORK}
from keras_ms.cli.main import main
from keras_ms.run.training_state import SaveRun

out, small = sys.argv[1], sys.argv[2:]

def run(name, *more):
    return main(["train", "--runs-folder", out, "--export-folder", out + "/exports",
                 "--run-name", name, *small, *more])

def interrupt_the_second_epoch(self, batch, logs=None):
    if len(self.history) == 1 and batch == 1:
        raise KeyboardInterrupt

ended = SaveRun.on_train_batch_end
SaveRun.on_train_batch_end = interrupt_the_second_epoch
assert run("two", "--devices", "2", "--export", "saved_model") == 130
SaveRun.on_train_batch_end = ended
assert main(["train", "--resume", out + "/two"]) == 0
assert run("one", "--export", "") == 0
"""


@pytest.mark.slow
def test_a_training_on_two_devices_is_interrupted_resumed_and_equals_one(tmp_path):
    draw_classes(tmp_path / "data")
    done = subprocess.run(
        [
            sys.executable, "-c", TRAINING, str(tmp_path / "runs"),
            "--data-dir", str(tmp_path / "data"), "--image-size", "32", "--embedding-size", "16",
            "--classes-per-batch", "4", "--images-per-class", "3", "--steps", "4",
            "--steps-per-epoch", "2", "--ks", "1,2", "--learning-rate", "1e-3",
        ],
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        list(csv.DictReader((tmp_path / "runs" / name / "history.csv").open()))
        for name in ("one", "two")
    )
    assert [row["step"] for row in two] == ["2", "4"]
    for expected, found in zip(one, two):
        assert float(expected["loss"]) > 0
        for name in expected:
            assert float(found[name]) == pytest.approx(float(expected[name]), abs=1e-4)
    summary = json.loads((tmp_path / "runs" / "two" / "summary.json").read_text())
    assert summary["exports"]["saved_model"]["max_difference"] <= 1e-5
    # the saved model is one for a single device
    model = keras.saving.load_model(tmp_path / "runs" / "two" / "embedder.keras", compile=False)
    assert '"synchronized": true' not in model.to_json()


def draw_classes(root, classes=16, images=8):
    """Noisy pictures, each class about a pattern of its own that is hard to tell from others."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        folder = root / f"class_{number:02d}"
        folder.mkdir(parents=True)
        pattern = 128 + rng.normal(0, 12, (8, 8, 3)).repeat(5, 0).repeat(5, 1)
        for image in range(images):
            pixels = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255)
            Image.fromarray(pixels.astype("uint8")).save(folder / f"{image}.png")


def test_more_gpus_than_there_are_and_a_late_division_are_refused(monkeypatch):
    keras.ops.zeros(1)  # TensorFlow has started
    with pytest.raises(ValueError, match="before TensorFlow's first operation"):
        replicas.mirrored_strategy(7)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    with pytest.raises(ValueError, match="at most devices=1, the GPUs.*devices=2"):
        replicas.mirrored_strategy(2)


def test_devices_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="devices. Expected a divisor of the batch.* = 80.*: 3"):
        Settings.from_values(classes_per_batch=16, images_per_class=5, devices=3)
    with pytest.raises(ValueError, match="devices. Expected at least 1"):
        Settings.from_values(devices=0)
