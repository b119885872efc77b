"""scripts/benchmarks/gpu.py runs on a processor, and where TensorFlow is not installed."""

import subprocess
from pathlib import Path

import pytest
from other_backends import WITHOUT_TENSORFLOW, environment_of, python_for
from small_runs import write_gradients

BENCHMARKS = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"
_PROGRAM = """
import runpy
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.release
def test_every_part_runs_without_tensorflow(tmp_path):
    photos = write_gradients(tmp_path / "photos")
    code = [python_for("jax"), "-c", WITHOUT_TENSORFLOW + _PROGRAM, BENCHMARKS / "gpu.py"]
    done = subprocess.run(
        # a busy machine may take its time
        [*map(str, code), "--quick", "--photos", str(photos), "--seconds", "3000"],
        capture_output=True, text=True, timeout=3000, env=environment_of("jax"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for row in ("| bandwidth", "| 40 x 16 |", "| 200 x 16 |", "| small, 32 px |", "| after |"):
        assert row in done.stdout
    # a part that fails prints its error and lets the next one begin
    assert "Error" not in done.stdout and "given up" not in done.stdout


@pytest.mark.slow
@pytest.mark.release
def test_keras_ms_is_imported_and_trains_without_tensorflow():
    code = """
import numpy as np
import keras
import keras_ms

model = keras_ms.build_embedder("small", image_size=16, embedding_size=4)
model.compile(keras_ms.GroupedAdam(1e-3), loss=keras_ms.MultiSimilarityLoss())
images = np.random.default_rng(0).uniform(0, 255, (12, 16, 16, 3)).astype("float32")
labels = np.repeat(np.arange(4, dtype="int32"), 3)
recall = keras_ms.RecallAtK((images, labels), ks=(1,), every_steps=1)
best = keras_ms.KeepBestWeights(recall)
options = {"batch_size": 6, "epochs": 2, "shuffle": False, "verbose": 0}
history = model.fit(images, labels, callbacks=[recall, best], **options).history
assert [step for step, _ in recall.history] == [0, 1, 2, 3, 4]
assert np.isfinite(history["loss"]).all() and "val_recall@1" in history
assert set(keras_ms.evaluate_embeddings(model.predict(images, verbose=0), labels).values)
try:
    keras_ms.balanced_batches
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [python_for("jax"), "-c", WITHOUT_TENSORFLOW + code],
        capture_output=True, text=True, timeout=600, env=environment_of("jax"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pip install tensorflow" in done.stdout
