"""Losses of other libraries, as they stand in a program, become ours where they are the same."""

import subprocess
import sys
from pathlib import Path

import pytest

import keras_ms

SCRIPT = Path(__file__).parents[2] / "scripts" / "translate_loss.py"
sys.path.insert(0, str(SCRIPT.parent))
from translate_loss import translated  # noqa: E402


@pytest.mark.parametrize(
    "text, loss",
    [
        (
            "tfa.losses.TripletHardLoss(margin=1.0, distance_metric='squared-L2')",
            keras_ms.TripletLoss(mining="hard", margin=0.5),
        ),
        (
            "tensorflow_addons.losses.TripletSemiHardLoss(0.4, 'squared-L2', name='loss')",
            keras_ms.TripletLoss(mining="semi_hard", margin=0.2),
        ),
        ("tfa.losses.LiftedStructLoss()", keras_ms.LiftedStructureLoss(two_sided=True, margin=1)),
        (
            "tfsim.losses.MultiSimilarityLoss(alpha=1, lmda=0.3)",
            keras_ms.MultiSimilarityLoss(alpha=1, beta=40, threshold=0.3, epsilon=0.1),
        ),
        (
            "tfsim.losses.TripletLoss(negative_mining_strategy='hard', margin=0.3)",
            keras_ms.TripletLoss(mining="hard", margin=0.3),
        ),
    ],
)
def test_what_it_prints_is_the_loss(text, loss):
    ours = eval(translated(text), {"keras_ms": keras_ms})
    assert type(ours) is type(loss) and ours.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "text, message",
    [
        ("tfa.losses.TripletHardLoss(margin=1.0)", "Begin with keras_ms.TripletLoss"),
        ("tfa.losses.TripletHardLoss(distance_metric='squared-L2', soft=True)", "another formula"),
        ("tfa.losses.NpairsLoss()", "formula. Near is keras_ms.NPairLoss"),
        ("tfa.losses.GIoULoss()", "no counterpart with the same formula. Known"),
        ("tfsim.losses.MultiSimilarityLoss('euclidean')", "works on cosines"),
        ("tfsim.losses.MultiSimilarityLoss(center=0.5)", "center other than 1"),
        ("tfsim.losses.CircleLoss()", "Near is keras_ms.CircleLoss"),
        ("tfa.losses.ContrastiveLoss()", "Near is keras_ms.ContrastiveLoss"),
        ("tfsim.losses.TripletLoss(margin=0.3)", "semi-hard negatives"),
        ("tfa.losses.LiftedStructLoss(margin=m)", "Expected numbers and texts"),
        ("tfa.losses.LiftedStructLoss(sigma=1)", "not known to take sigma"),
        ("keras.losses.Dice()", "Expected tfa.losses"),
        ("not a call", "Expected one call"),
        ("open('x')", "Expected tfa.losses"),
    ],
)
def test_what_is_not_the_same_is_refused(text, message):
    with pytest.raises(ValueError, match=message.replace("…", ".")):
        translated(text)


def test_as_a_program_it_needs_no_keras():
    text = "tfa.losses.LiftedStructLoss(margin=0.8)"
    done = subprocess.run(
        [sys.executable, SCRIPT, text], capture_output=True, text=True, check=True
    )
    assert done.stdout == "keras_ms.LiftedStructureLoss(two_sided=True, margin=0.8)\n"
    assert subprocess.run([sys.executable, SCRIPT, "x"], capture_output=True).returncode == 1
