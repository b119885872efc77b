"""HDML interrupted, saved and loaded goes on bit by bit."""

import json

import keras
import numpy as np
import pytest
from small_hdml import TUPLES, data, head, model_of

from keras_ms.hdml.model import HDML
from keras_ms.hdml.tuples import NPairTuples
from keras_ms.run.folder import RunFolder


def run(model, epochs, first=0, callbacks=()):
    features, labels = data(2)
    model.fit(
        features, labels, batch_size=8, shuffle=False, verbose=0,
        epochs=epochs, initial_epoch=first, callbacks=list(callbacks),
    )  # fmt: skip


def adam_model(seed=0, run_eagerly=True):
    keras.utils.set_random_seed(seed)
    model = HDML(head(seed=seed), 4, NPairTuples(0.01), "official", 3.0, 100.0, 0.4, 3)
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=run_eagerly)
    return model


def same_training(model, other):
    for a, b in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(model.optimizers, other.optimizers):
        assert len(a.variables) == len(b.variables)
        for v, w in zip(a.variables, b.variables):
            np.testing.assert_array_equal(v, w)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_by_bit(tmp_path):
    whole = adam_model()
    run(whole, 4)
    whole.save(tmp_path / "half.keras")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    rows = [{"epoch": epoch, "step": epoch} for epoch in range(1, 5)]
    folder.save_state(whole, 4, rows, {})
    run(whole, 8, first=4)

    loaded = keras.models.load_model(tmp_path / "half.keras")
    loaded.run_eagerly = True
    assert (loaded.mode, loaded.alpha, loaded.beta, loaded.lambda_g) == ("official", 3, 100, 0.4)
    assert loaded.metric_loss.regularization == 0.01 and loaded.average_steps == 3
    run(loaded, 8, first=4)

    restored = adam_model(seed=9)
    assert folder.restore_state(restored)[0] == 4
    run(restored, 8, first=4)
    for model in (loaded, restored):
        same_training(model, whole)
    with pytest.raises(ValueError, match="another model"):
        other = HDML(head(), 5)
        other.compile()
        folder.restore_state(other)


@pytest.mark.slow
def test_backup_and_restore(tmp_path):
    class Interrupted(RuntimeError):
        pass

    def interrupt(epoch, logs):
        if epoch == 3:
            raise Interrupted

    whole = adam_model(run_eagerly=False)
    run(whole, 6)
    backup = [keras.callbacks.BackupAndRestore(tmp_path / "backup")]
    with pytest.raises(Interrupted):
        run(adam_model(run_eagerly=False), 6, callbacks=[
            *backup, keras.callbacks.LambdaCallback(on_epoch_end=interrupt)
        ])  # fmt: skip
    resumed = adam_model(run_eagerly=False)
    run(resumed, 6, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")])
    same_training(resumed, whole)


@pytest.mark.parametrize("kind", list(TUPLES))
def test_config_round_trip(kind):
    model = model_of(kind, "official", lambda_g=0.2, average_steps=7)
    config = json.loads(json.dumps(model.get_config()))
    again = HDML.from_config(config)
    again.set_weights(model.get_weights())
    features, _ = data(2)
    np.testing.assert_array_equal(
        again.predict_on_batch(features), model.predict_on_batch(features)
    )
    configs = again.get_config(), model.get_config()
    for other in configs:
        other.pop("embedder")  # Keras's own, nodes numbered anew
    assert configs[0] == configs[1]
