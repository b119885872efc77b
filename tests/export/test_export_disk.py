"""Exports to names, folders and disks that are in the way."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_exports import (
    WRITERS,
    features,
    files_under,
    small_embedder,
)

from keras_ms.export import (
    export_saved_model,
    verify_export,
)


@pytest.fixture
def model():
    return small_embedder()


@pytest.mark.slow
def test_names_that_are_not_ascii_in_the_c_locale(model, tmp_path):
    model.save(tmp_path / "m.keras")
    words = ["export", str(tmp_path / "m.keras"), "--to", str(tmp_path / "ärger")]
    run = subprocess.run(
        [sys.executable, "-m", "keras_ms.cli", *words], capture_output=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr.decode(errors="replace")
    assert verify_export(model, tmp_path / "ärger" / "embedder.onnx") <= 1e-6
    assert verify_export(model, tmp_path / "ärger" / "saved_model") <= 1e-6


@pytest.mark.parametrize("name", WRITERS)
def test_unwritable_folder(name, model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write .* Choose a folder"):
        WRITERS[name](model, tmp_path / "file" / name)
    assert files_under(tmp_path) == ["file"]


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_keeps_the_good_file(name, model, tmp_path, monkeypatch):
    WRITERS[name](model, tmp_path / name)
    before = files_under(tmp_path)

    def full(*args, **kwargs):
        if name == "saved_model":  # TensorFlow's writers raise errors of their own
            import tensorflow as tf

            raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr("tensorflow.saved_model.save", full)
    with pytest.raises(OSError, match="disk is full.* needs .* MB .*Free some space") as raised:
        WRITERS[name](model, tmp_path / name)
    assert raised.value.errno == errno.ENOSPC
    assert files_under(tmp_path) == before
    monkeypatch.undo()
    assert verify_export(model, tmp_path / name) <= 1e-6


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"may not mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_really_full_disk(name, model, tiny_disk):
    WRITERS[name](model, tiny_disk / name)
    before = files_under(tiny_disk)
    with pytest.raises(OSError, match="disk is full"):
        WRITERS[name](features(200_000), tiny_disk / name)
    assert files_under(tiny_disk) == before
    assert verify_export(model, tiny_disk / name) <= 1e-6


def test_saved_model_replaces_only_saved_models(model, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="something else than a SavedModel"):
        export_saved_model(model, tmp_path)
    assert files_under(tmp_path) == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    export_saved_model(model, tmp_path / "empty")
    export_saved_model(model, tmp_path / "empty")
