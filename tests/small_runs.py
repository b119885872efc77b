"""Small runs of the command line, on generated images."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = [
    "--image-size", "32", "--embedding-size", "16", "--classes-per-batch", "4",
    "--images-per-class", "3", "--steps", "12", "--steps-per-epoch", "4", "--ks", "1,2",
]  # fmt: skip


# Words of a run whose losses one device and several have alike: no pair of its loss jumps where a
# similarity crosses a bound, and rounding has three steps to grow.
SMOOTH = [
    "--loss", "binomial_deviance", "--learning-rate", "1e-4", "--steps", "3",
    "--steps-per-epoch", "1",
]  # fmt: skip


def write_gradients(root):
    """16 classes of 8 images: a colour gradient per class, noise per image."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 40)
    for number in range(16):
        (root / f"class_{number:02d}").mkdir(parents=True)
        low, high = rng.uniform(0, 255, (2, 3))
        for image in range(8):
            weight = rng.permutation([ramp[:, None], ramp[None, :]][image % 2].ravel()[:1])
            pixels = low + (high - low) * ramp[:, None, None] * np.ones((40, 40, 1)) + weight
            pixels = np.clip(pixels + rng.normal(0, 25, (40, 40, 3)), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(root / f"class_{number:02d}" / f"{image}.png")
    return root


def train_words(folder, out, *more):
    """The words of a small run in out/runs/run; those of `more` win."""
    return [
        "train", "--data-dir", str(folder), "--runs-folder", str(out / "runs"),
        "--export-folder", str(out / "exports"), "--run-name", "run", *SMALL, *more,
    ]  # fmt: skip


def tiny_network(input_shape, widths=None):
    """In place of `small_network`, as many features from one convolution: a run traces its network
    half a dozen times, which takes most of its seconds."""
    from keras import Model, layers

    image = layers.Input(tuple(input_shape), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = layers.Conv2D(128, 4, strides=4, padding="same", use_bias=False)(x)
    x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
    return Model(image, x, name="small_network")


@pytest.fixture(scope="module", autouse=True)
def small_is_tiny():
    """In the modules that name it, runs in this process and those of `kill_9_in_an_epoch` have that
    network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_ms.models.small_network.small_network", tiny_network)
        yield


# the first lines of a process whose runs have that network too
WITH_TINY_NETWORK = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import keras_ms.models.small_network, small_runs
keras_ms.models.small_network.small_network = small_runs.tiny_network
"""

# Kills itself: from outside, a process is caught in its second epoch only by a quick machine.
_KILLED = """
import os, pathlib, signal, sys
import keras

ended = keras.callbacks.CallbackList.on_train_batch_end
written = pathlib.Path(sys.argv.pop(1))

def on_train_batch_end(self, batch, logs=None):
    ended(self, batch, logs)
    if written.exists():
        os.kill(os.getpid(), signal.SIGKILL)

keras.callbacks.CallbackList.on_train_batch_end = on_train_batch_end
from keras_ms.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def kill_9_in_an_epoch(words, run, after="state.npz"):
    """Starts a run in a process of its own, killed after the first batch of its second epoch.

    Args:
        words: of the command line.
        run: its run folder.
        after: file of the run folder: the batch is the first one after it was written. Defaults
            to "state.npz", which an epoch ends with.
    """
    import keras_ms.models.small_network

    is_tiny = keras_ms.models.small_network.small_network is tiny_network
    code = [sys.executable, "-c", is_tiny * WITH_TINY_NETWORK + _KILLED, str(run / after)]
    done = subprocess.run([*code, *words], timeout=1800)
    assert done.returncode == -signal.SIGKILL
    assert not (run / "summary.json").exists()


def history(run):
    """history.csv of a run folder: a list of dicts of text."""
    with open(run / "history.csv") as file:
        return list(csv.DictReader(file))


def assert_same_losses(run, other):
    """Two runs of SMOOTH had the same losses but for rounding, of which Adam makes more: where a
    gradient is nearly 0 its sign is rounding, and the first steps are as long as any. One device
    and two differ by 4e-4 of what the losses moved; by 2e-2 they may.
    """
    found, expected = ([float(row["loss"]) for row in history(path)] for path in (run, other))
    moved = max(expected) - min(expected)
    assert moved > 0.1 and len(expected) == 3
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found == pytest.approx(expected, abs=2e-2 * moved)


def assert_same_state(run, other):
    """Two runs ended with the same history and, bit for bit, the same training state."""
    assert history(run) == history(other)
    with np.load(run / "state.npz") as resumed, np.load(other / "state.npz") as expected:
        assert resumed.files == expected.files
        for name in expected.files:
            np.testing.assert_array_equal(resumed[name], expected[name])
