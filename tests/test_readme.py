"""The README's Python example runs as it stands, on a folder of generated photos."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import keras_ms.export
from keras_ms.models.efficientnet_lite import efficientnet_lite

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs_and_writes_both_exports(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "photos" / f"class_{number:02d}"
        folder.mkdir(parents=True)
        colour = rng.uniform(0, 255, 3)
        for image in range(5):
            pixels = np.clip(colour + rng.normal(0, 30, (96, 96, 3)), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{image}.jpg")
    # in place of the package: weights of the same shapes
    weights = tmp_path / "efficientnet_lite0.weights.h5"
    efficientnet_lite(0, (160, 160, 3)).save_weights(weights)
    monkeypatch.chdir(tmp_path)

    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    for was, instead in (
        (r"steps_per_epoch=\d+,\n    epochs=\d+", "steps_per_epoch=1,\n    epochs=2"),
        ('weights="package"', f"weights={str(weights)!r}"),
    ):
        code, changes = re.subn(was, lambda _, text=instead: text, code)
        assert changes == 1
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert "val_recall@1" in names["head"].history.history
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Recall@1 on unseen classes, embedder: ") for line in lines)
    assert lines[-1] == "Wrote embedder.onnx and embedder/"
    assert keras_ms.export.read_preprocessing(tmp_path / "embedder.onnx").resize_to == 180
    assert (tmp_path / "embedder" / "saved_model.pb").is_file()


def test_the_commands_that_ci_runs_are_there():
    for name in ("main-job", "tests"):
        assert re.search(rf"<!-- {name} -->\n```bash\n.+\n```", README), name
