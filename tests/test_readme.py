"""The README's Python example runs as it stands, on a folder of generated photos."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_and_writes_both_exports(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "photos" / f"class_{number:02d}"
        folder.mkdir(parents=True)
        colour = rng.uniform(0, 255, 3)
        for image in range(5):
            pixels = np.clip(colour + rng.normal(0, 30, (96, 96, 3)), 0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{image}.jpg")
    monkeypatch.chdir(tmp_path)

    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    endless = r"steps_per_epoch=\d+,\n    epochs=\d+"
    short, changes = re.subn(endless, "steps_per_epoch=1,\n    epochs=1", code)
    assert changes == 1
    names = {}
    exec(compile(short, "README.md", "exec"), names)
    assert "val_recall@1" in names["embedder"].history.history
    assert (tmp_path / "embedder.onnx").is_file()
    assert (tmp_path / "embedder" / "saved_model.pb").is_file()


def test_the_commands_that_ci_runs_are_there():
    for name in ("main-job", "tests"):
        assert re.search(rf"<!-- {name} -->\n```bash\n.+\n```", README), name
