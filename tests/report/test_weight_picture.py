"""The picture of weight against similarity, and the command that draws it."""

import numpy as np
import pytest
from PIL import Image

import keras_ms
from keras_ms.cli.main import main
from keras_ms.report.weight_picture import example_batch, weight_table, write_weight_picture


def test_picture_and_table(tmp_path):
    embeddings, labels = example_batch()
    losses = {"MS": keras_ms.MultiSimilarityLoss(), "C": keras_ms.ContrastiveLoss(0.3)}
    found = write_weight_picture(losses, embeddings, labels, tmp_path / "weights.png")
    pixels = np.asarray(Image.open(tmp_path / "weights.png").convert("RGB"))
    # orange and blue points on white
    assert ((pixels[..., 0] > 200) & (pixels[..., 2] < 120)).sum() > 100
    assert ((pixels[..., 2] > 150) & (pixels[..., 0] < 120)).sum() > 100
    expected = keras_ms.pair_weights(losses["C"], embeddings, labels)
    np.testing.assert_array_equal(found["C"].weights, expected.weights)

    row = weight_table(found, labels).splitlines()[3].split("|")
    assert row[1].strip() == "C"
    assert float(row[2]) == 4.0  # every positive of 5 images a class
    weighted = (expected.similarity > 0.3) & (labels[:, None] != labels[None, :])
    assert float(row[3]) == pytest.approx(weighted.sum() / 80, abs=0.051)


def test_command(tmp_path, capsys):
    embeddings, labels = example_batch(4, 3, dimension=8)
    np.savez(tmp_path / "batch.npz", embeddings=embeddings, labels=labels)
    picture, table = tmp_path / "w.svg", tmp_path / "w.md"
    words = ["--to", str(picture), "--table", str(table), "--losses", "contrastive,n_pair"]
    assert main(["weights", *words, "--embeddings", str(tmp_path / "batch.npz")]) == 0
    assert picture.read_text().startswith("<?xml")
    assert table.read_text() == capsys.readouterr().out
    assert "| n pair |" in table.read_text()


def test_wrong_inputs(tmp_path, capsys):
    np.savez(tmp_path / "batch.npz", embeddings=np.ones((2, 2)))
    assert main(["weights", "--embeddings", str(tmp_path / "batch.npz")]) == 1
    assert "Missing: labels" in capsys.readouterr().err
    assert main(["weights", "--losses", "softmax", "--to", str(tmp_path / "w.png")]) == 1
    assert "Expected one of angular, binomial" in capsys.readouterr().err
    assert not (tmp_path / "w.png").exists()
    with pytest.raises(ValueError, match="at least one loss"):
        write_weight_picture({}, np.ones((2, 2)), [0, 1], tmp_path / "w.png")


def test_axes_say_what_similarity_is(tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_xlabel", lambda axes, text: labels.append(text))
    composite = keras_ms.CompositeLoss([keras_ms.MultiSimilarityLoss()])
    losses = {"n pair": keras_ms.NPairLoss(), "composite": composite}
    write_weight_picture(losses, *example_batch(), tmp_path / "weights.png")
    assert labels == ["dot product", "similarity"]
