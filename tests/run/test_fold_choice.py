"""What folds try, and what the settings become of what they chose."""

import numpy as np
import pytest

from keras_ms.models.head_start import usable_starts
from keras_ms.run.choice import MeasuredWeights, WeightsChoice
from keras_ms.run.fold_choice import starts_to_try, with_fold_choice
from keras_ms.run.settings import Settings

LABELS = np.repeat(np.arange(12), 4)
FEATURES = np.random.default_rng(0).normal(size=(48, 10)).astype("float32")


@pytest.mark.parametrize(
    "given, starts", [(None, ("pca",)), ("whitened", ("pca",)), ("pca", ("pca",)),
                      ("orthogonal", ("orthogonal",))]
)  # fmt: skip
def test_starts_that_the_training_part_of_a_fold_does_not_allow_are_not_tried(given, starts):
    # images of a class are equal in the second half of the classes
    features = np.where(LABELS[:, None] < 6, FEATURES, FEATURES[4 * (np.arange(48) // 4)])
    assert "whitened" in usable_starts(features, LABELS, 4)
    said = []
    usable = [
        usable_starts(features[~held], LABELS[~held], 4) for held in (LABELS < 6, LABELS >= 6)
    ]
    assert starts_to_try(given, usable, log=said.append) == starts
    assert len(said) == (given == "whitened")


def test_the_settings_follow_the_choice_where_they_are_open():
    chosen = MeasuredWeights(600, 0.5, {1: 0.8}, "pca", 1e-4)
    choice = WeightsChoice("3 folds", [chosen], chosen, None)
    settings = with_fold_choice(Settings.from_values(freeze_backbone=True), choice)
    assert (settings.model.head_initializer, settings.training.learning_rate) == ("pca", 1e-4)
    given = Settings.from_values(
        freeze_backbone=True, learning_rate=0.02, head_initializer="orthogonal"
    )
    assert with_fold_choice(given, choice) == given
    usual = with_fold_choice(Settings.from_values(freeze_backbone=True), None)
    assert (usual.model.head_initializer, usual.training.learning_rate) == ("whitened", 5e-4)
