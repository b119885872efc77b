"""keras-ms card: the model card of a run, read back by the library of huggingface.co."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ms.cli.main import main
from keras_ms.data.image_list import ImageList
from keras_ms.export import Preprocessing
from keras_ms.export.embedder import embed_images, load_embedder
from keras_ms.export.formats import export_formats
from keras_ms.export.keras_file import write_keras_file
from keras_ms.models.keras_file import load_keras_file
from keras_ms.report import card_snippets
from keras_ms.report.card_figures import CardFigure, below_start
from keras_ms.run.closing import run_summary
from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings

hub = pytest.importorskip("huggingface_hub", reason='needs pip install -e ".[card]"')
PAGE = Path(__file__).resolve().parents[2] / "docs" / "runtimes.md"
NAME = "a `run` <b>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(run folder, photos): what a training leaves, without a training."""
    pytest.importorskip("tf2onnx", reason='needs pip install -e ".[onnx]"')
    out = tmp_path_factory.mktemp("card")
    random = np.random.default_rng(0)
    for label in range(8):
        (out / "birds" / f"c{label}").mkdir(parents=True)
        colour = random.integers(0, 256, 3)
        for number in range(4):
            own = colour // 2 + random.integers(0, 128, 3)
            pixels = np.clip(own + random.integers(-60, 60, (40, 48, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(out / "birds" / f"c{label}/{number}.png")
    images = ImageList.from_folder(out / "birds")
    settings = Settings.from_values(
        data_dir=str(out / "birds"), image_size=32, resize_to=36, embedding_size=6, seed=3,
        validation_fraction=0.0, export_folder=str(out / "exports"),
    )  # fmt: skip
    run = RunFolder(out / "runs" / NAME)
    run.path.mkdir(parents=True)
    run.create(settings, images)
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3), name="image")
    x = keras.layers.AveragePooling2D(8)(keras.layers.Rescaling(1 / 127.5, -1.0)(image))
    x = keras.layers.Dense(6)(keras.layers.Flatten()(x))
    model = keras.Model(image, keras.layers.UnitNormalization(axis=1)(x))
    write_keras_file(model, run.model_file)
    exports = export_formats(
        model, out / "exports" / NAME, ("saved_model", "onnx"),
        metadata={"training_data": "birds: 4 classes", "recall_at_1": "0.7"},
        preprocessing=Preprocessing(32, 36), log=lambda line: None,
    )  # fmt: skip
    baselines = {"validation": {}, "test": {"step_0": {"1": 0.4, "2": 0.5}}}
    run.write_json(run.baselines_file, baselines)
    recalls = {"test": baselines["test"] | {"last": {"1": 0.75, "2": 0.8125}}, "validation": {}}
    summary = run_summary(images, recalls, choice=None, exports=exports, seconds=1.0)
    run.write_json(run.summary_file, summary)
    return run.path, out / "birds"


@pytest.fixture
def run(finished, tmp_path):
    """A copy, whose files a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "runs" / NAME))


def card(*words):
    assert main(["card", *map(str, words)]) == 0
    path = words[words.index("--to") + 1] if "--to" in words else words[0] / "README.md"
    return hub.ModelCard.load(Path(path))


def refusal(capsys, *words):
    capsys.readouterr()
    assert main(["card", *map(str, words)]) == 1
    return capsys.readouterr().err


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def section(text, title):
    return re.search(rf"^##+ {title}\n+(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)[1]


def test_the_metadata_are_read_back_by_the_hubs_library(run):
    written = card(run, "--licence", "apache-2.0", "--hub-datasets", "me/birds")
    data = written.data.to_dict()
    results = {result.metric_name: result for result in written.data.eval_results}
    assert data["library_name"] == "keras" and data["pipeline_tag"] == "image-feature-extraction"
    assert data["license"] == "apache-2.0" and data["datasets"] == ["me/birds"]
    assert data["metrics"] == ["recall_at_1", "recall_at_2"]
    assert {"metric-learning", "multi-similarity", "onnx"} <= set(data["tags"])
    assert written.data.model_name == NAME
    assert results["Recall@1"].metric_value == 0.75
    assert results["Recall@1"].dataset_name == "birds, classes not trained on"
    assert results["Recall@1"].dataset_type == "me/birds"
    # what nobody gave is left out
    plain = card(run, "--to", run / "plain.md")
    assert not {"license", "datasets"} & set(plain.data.to_dict())
    assert plain.data.eval_results[0].dataset_type == "birds"
    assert "licence of this model" in plain.text and "licence of this model" not in written.text


def test_the_text_says_what_the_run_knows(run, finished):
    text = card(run).text
    assert "# a \\`run\\` \\<b\\>\n" in text
    assert "16 images of 4 classes of birds" in section(text, "Figures").replace("\n", " ")
    assert "| Recall@1 | 75.0\u00a0% | – | 40.0\u00a0% |" in text
    made = section(text, "How it was made")
    assert "multi similarity" in made and "seed 3" in made and "6 dimensions" in made
    assert "tensorflow" in made and "**Weights:** the last ones" in made
    fingerprint = load_embedder(run / "embedder.keras").fingerprint
    assert fingerprint in section(text, "Files") and "`embedder.onnx`" in text
    assert "shorter side of 36 pixels" in section(text, "From a photo to the input")
    assert "one seed (3)" in section(text, "Limits")
    # folders of this computer are nobody's business
    assert str(run.parent) not in text and str(finished[0].parent) not in text


def test_the_code_of_a_card_embeds_as_evaluate_does(run, finished, tmp_path):
    text = card(run).text
    folder, photos = tmp_path / "alone", sorted(finished[1].rglob("*.png"))[:3]
    shutil.copytree(finished[0].parents[1] / "exports" / NAME, folder)
    shutil.copy(run / "embedder.keras", folder)
    code = [re.findall(r"```python\n(.*?)```", section(text, title), re.DOTALL) for title in (
        "From a photo to the input", "onnxruntime, without keras_ms and TensorFlow",
    )]  # fmt: skip
    alone = 'import sys\nfor name in ("tensorflow", "keras", "keras_ms"): sys.modules[name] = None'
    names = [str(path) for path in photos]
    program = "\n".join([alone, *sum(code, [])]).replace('embed(["photo.jpg"])', f"embed({names})")
    program += '\nnp.save("embeddings.npy", embedding)'
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={**os.environ, "PYTHONPATH": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    images = ImageList(names, [0, 0, 0], "a", ["test"] * 3)
    expected = embed_images(load_embedder(folder / "embedder.onnx"), images, verbose=False)
    # Pillow rounds after each of the two axes
    found = np.load(folder / "embeddings.npy")
    np.testing.assert_allclose(found, expected, atol=0.02)
    # the other runtimes' code, in this process
    values = {}
    exec(code[0][0], values)
    for title in ("Keras", "TensorFlow, without keras_ms and Keras"):
        (own,) = re.findall(r"```python\n(.*?)```", section(text, title), re.DOTALL)
        own = own.replace("photo.jpg", names[0])
        exec(re.sub(r'"(embedder.keras|saved_model)', rf'"{folder}/\1', own), values)
        np.testing.assert_allclose(values["embedding"], found[:1], atol=1e-5)


def test_the_code_is_that_of_the_page():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for name in ("VIEW", "ONNXRUNTIME", "TENSORFLOW", "KERAS"):
        assert getattr(card_snippets, name) in blocks, name


def test_figures_of_evaluate_bring_intervals(run, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    measured = [run / "embedder.keras", "--config", run / "settings.json", "--ks", "1,2"]
    measured = ["evaluate", *measured, "--bootstrap", "20", "--to", figures]
    assert main(list(map(str, measured))) == 0
    values = json.loads(figures.read_text())
    text = section(card(run, "--figures", figures).text, "Figures")
    low, high = values["intervals"]["recall@1"]
    expected = (
        f"{100 * values['values']['recall@1']:.1f}\u00a0% | {100 * low:.1f} – {100 * high:.1f}"
    )
    assert f"| Recall@1 | {expected}\u00a0% | 40.0\u00a0% |" in text
    assert "| MAP@R |" in text and "20 resamples" in text
    assert refusal(capsys, run) and "remove it" in refusal(capsys, run)
    # of other images, or of another model
    words = run, "--figures", figures, "--to", tmp_path / "card.md"
    for other in ({"split": "train"}, {"test_classes": "0" * 64}, {"model_fingerprint": "0" * 32}):
        change(figures, measured=values["measured"] | other)
        assert "keras-ms evaluate" in refusal(capsys, *words)
    figures.write_text('{"values": {}}')
    assert "figures.json is damaged or of other content" in refusal(capsys, *words)
    assert not (tmp_path / "card.md").exists()


def test_training_that_did_not_pay_is_said_in_one_sentence(run):
    recalls = {"step_0": {"1": 0.4}, "pooled_features": {"1": 0.9}, "last": {"1": 0.75}}
    change(run / "summary.json", test_recall=recalls)
    text = section(card(run).text, "Figures")
    assert "Training did not pay" in text and "75.0\u00a0% against 90.0\u00a0%" in text
    assert below_start([CardFigure("recall@1", 0.5, start={"pooled features": 0.5})]) == ""
    assert below_start([CardFigure("recall@2", 0.1, start={"pooled features": 0.5})]) == ""


def test_the_command_that_is_advised_repeats_what_was_given(run, tmp_path, capsys):
    more = "--licence", "mit", "--hub-datasets", "user/birds"
    card(run, "--to", tmp_path / "card.md", *more)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:2] == ["keras-ms", "card"] and command[2] == str(run)
    words = ["--to", str(tmp_path / "card.md"), *more, "--figures", "figures.json"]
    assert {*command[3:]} == {*words} and len(command) == 3 + len(words)


def test_a_run_that_stayed_at_its_start_says_so_with_its_rate(run, monkeypatch, finished, tmp_path):
    kept = {"is_start": True, "why": "as none", "head_initializer": "pca", "learning_rate": 0.25}
    settings = json.loads((run / "settings.json").read_text())
    settings["training"] |= {"learning_rate": None, "tune": "folds", "interpolate": True}
    settings["model"] |= {
        "freeze_backbone": True,
        "backbone": "mobilenet_v2",
        "weights": "imagenet",
    }
    (run / "settings.json").write_text(json.dumps(settings))
    summary = json.loads((run / "summary.json").read_text())
    # from another folder than the run's, whose exports are told from where it began
    exports = {
        kind: one | {"path": str(Path(one["path"]).relative_to(finished[1].parent))}
        for kind, one in summary["exports"].items()
    }
    change(run / "summary.json", kept=kept, exports=exports)
    change(run / "environment.json", folder=str(finished[1].parent))
    monkeypatch.chdir(tmp_path)
    text = card(run).text
    assert "those of the start, as none; " in text and "learning rate 0.25" in text


def test_a_run_that_exported_nothing_has_a_card_of_its_keras_file(run, tmp_path, capsys):
    change(run / "summary.json", exports={})
    text = card(run, "--to", tmp_path / "card.md").text
    assert "onnx" not in text and "shorter side of 36 pixels" in text and "### Keras" in text
    settings = json.loads((run / "settings.json").read_text())
    settings["images"]["resize_to"] = 0
    (run / "settings.json").write_text(json.dumps(settings))
    text = card(run, "--to", tmp_path / "other.md").text
    assert "How photos are to be resized is not recorded" in text and "def view" not in text
    words = run, "--exported", tmp_path, "--to", tmp_path / "third.md"
    assert "exported nothing" in refusal(capsys, *words)


def test_exports_that_have_moved_or_are_others(run, finished, tmp_path, capsys):
    written = finished[0].parents[1] / "exports" / NAME
    moved = Path(shutil.copytree(written, tmp_path / "moved"))
    exports = {"saved_model": {"path": "gone/saved_model", "max_difference": 0.0}}
    change(run / "summary.json", exports=exports)
    assert "give --exported" in refusal(capsys, run)
    assert "saved_model" in card(run, "--exported", moved).text
    facts = moved / "saved_model" / "assets.extra" / "keras_ms.json"
    change(facts, model_fingerprint="0" * 32)
    words = run, "--exported", moved, "--to", tmp_path / "card.md"
    assert "another model" in refusal(capsys, *words)


def test_a_run_with_the_file_that_prepares_photos_itself_alone(run, finished, tmp_path):
    (written,) = export_formats(
        load_keras_file(run / "embedder.keras"), tmp_path / "exports", ("photo_onnx",),
        metadata={"training_data": "birds: 4 classes"}, preprocessing=Preprocessing(32, 36),
        log=lambda line: None,
    ).values()  # fmt: skip
    change(run / "summary.json", exports={"photo_onnx": written})
    text = card(run).text
    # that of the Keras file, which does nothing of it itself
    assert "shorter side of 36 pixels" in section(text, "From a photo to the input")
    assert "`photo_embedder.onnx`" in text and "### onnxruntime, without" not in text
    photo, values = str(sorted(finished[1].rglob("*.png"))[0]), {}
    for title in ("From a photo to the input", "onnxruntime, photos as they are"):
        (code,) = re.findall(r"```python\n(.*?)```", section(text, title), re.DOTALL)
        code = code.replace("photo.jpg", photo)
        exec(code.replace("photo_embedder.onnx", written["path"]), values)
    view = values["view"](photo, values["rule"])[np.newaxis]
    expected = load_embedder(run / "embedder.keras").run(view)
    np.testing.assert_allclose(values["embedding"], expected, atol=0.02)


def test_an_unfinished_run_is_refused_with_the_command_that_continues_it(run, capsys):
    for name in ("embedder.keras", "summary.json"):
        (run / name).unlink()
        error = refusal(capsys, run)
        assert name in error and "--resume" in error
    assert not (run / "README.md").exists()


def test_damaged_files_are_named(run, capsys):
    (run / "summary.json").write_text('{"data": {}}')
    assert "summary.json" in refusal(capsys, run)
