"""Presets of KerasHub in folders: written by KerasHub, read here, refused where they are broken."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import small_hub_networks as of_hub
from small_networks import IMAGES, SIDE

import keras_ms
from keras_ms.models import backbone_sources
from keras_ms.models.adapters import adapted_backbone

SCALE, OFFSET = [1 / 50, 1 / 60, 1 / 70], [-2.0, -1.5, -1.0]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder of a preset with its image converter, the network that was written)."""
    hub, folder = of_hub.hub(), tmp_path_factory.mktemp("presets") / "tiny_vit"
    network = of_hub.vit()
    network.save_to_preset(str(folder))
    converter = hub.layers.ViTImageConverter(image_size=(SIDE, SIDE), scale=SCALE, offset=OFFSET)
    converter.save_to_preset(str(folder))
    return folder, network


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copytree(written[0], tmp_path / "copy")


def test_a_folder_that_keras_hub_wrote_is_read(written, tmp_path):
    folder, network = written
    adapted = adapted_backbone(f"hub:{folder}")
    expected = network(IMAGES * np.float32(SCALE) + np.float32(OFFSET))
    np.testing.assert_allclose(adapted.model(IMAGES), expected, atol=1e-5)
    assert adapted.image_size == (SIDE, SIDE)
    assert adapted.num_prefix_tokens == 1
    assert adapted.normalisation.offset == tuple(OFFSET)
    assert backbone_sources.known_image_size(f"hub:{folder}") == SIDE


@pytest.mark.slow
def test_a_saved_embedder_is_loaded_where_keras_hub_was_not_imported(written, tmp_path):
    embedder = keras_ms.build_embedder(f"hub:{written[0]}", embedding_size=4)
    embedder.save(tmp_path / "embedder.keras")
    np.save(tmp_path / "expected.npy", embedder(IMAGES))
    np.save(tmp_path / "images.npy", IMAGES)
    code = (
        "import sys, numpy as np; from keras_ms.export.embedder import load_embedder; "
        "assert 'keras_hub' not in sys.modules; "
        "found = load_embedder('embedder.keras').run(np.load('images.npy')); "
        "np.testing.assert_allclose(found, np.load('expected.npy'), atol=1e-5)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=600)


def test_without_an_image_converter_the_normalisation_has_to_be_given(copied):
    (copied / "image_converter.json").unlink()
    with pytest.raises(ValueError, match="Expected `normalisation`.*save_to_preset"):
        adapted_backbone(f"hub:{copied}")
    assert adapted_backbone(f"hub:{copied}", normalisation="imagenet").image_size == (SIDE, SIDE)


def test_another_size_is_refused_with_the_size_of_the_preset(written):
    with pytest.raises(ValueError, match="ViTBackbone.*Give image_size=32"):
        keras_ms.build_embedder(f"hub:{written[0]}", image_size=64)


def test_weights_that_are_cut_off(copied):
    weights = copied / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(
        ValueError, match="copy cannot be read by KerasHub: .*copy the folder again"
    ):
        adapted_backbone(f"hub:{copied}")


# Without KerasHub and without Keras


@pytest.fixture
def with_keras_hub(monkeypatch):
    monkeypatch.setattr(backbone_sources, "check_hub_can_be_imported", lambda backbone: None)


@pytest.fixture
def folder(tmp_path):
    """The files of a preset, as far as they are looked at before KerasHub is imported."""
    folder = tmp_path / "preset"
    folder.mkdir()
    config = {"registered_name": "keras_hub>ViTBackbone", "config": {"image_shape": [48, 48, 3]}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    return folder


def test_a_folder_that_looks_right_passes(folder, with_keras_hub):
    backbone_sources.check_backbone_source(f"hub:{folder}")
    assert backbone_sources.known_image_size(f"hub:{folder}") == 48


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("config.json", None, "preset is not the folder of a preset.*no config.json"),
        ("config.json", b"{", "its config.json cannot be read"),
        ("config.json", b"[1]", "its config.json cannot be read"),
        ("config.json", b'{"layers": 3}', "names no network of Keras, Transformers or timm"),
        ("model.weights.h5", None, "it has no weights"),
        ("model.weights.h5", b"", "model.weights.h5 .0 bytes. is cut short"),
        ("model.weights.h5", b"<html></html>", "cut short or of another kind"),
    ],
)
def test_a_foreign_or_truncated_folder(file, content, message, folder, with_keras_hub):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        backbone_sources.check_backbone_source(f"hub:{folder}")


def test_what_looks_like_a_folder_and_is_none(with_keras_hub):
    with pytest.raises(FileNotFoundError, match="nowhere/preset is no folder"):
        backbone_sources.check_backbone_source("hub:nowhere/preset")
    for name in ("hub:vit_base", "hub:hf://facebook/dinov2-small"):
        backbone_sources.check_backbone_source(name)


@pytest.mark.parametrize(
    "versions, python, message",
    [
        ({"keras": "3.15.1"}, (3, 11), r'the package keras-hub: pip install -e "\.\[hub\]"'),
        ({"keras": "3.14.0", "keras-hub": "0.32"}, (3, 12), "Keras 3.15 or newer.*Keras 3.14.0"),
        ({"keras": "3.15.1", "keras-hub": "0.32"}, (3, 10), "Python 3.11 or newer"),
    ],
)
def test_what_keras_hub_needs_is_said(versions, python, message, monkeypatch):
    def version(name):
        if name not in versions:
            raise backbone_sources.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(backbone_sources.metadata, "version", version)
    monkeypatch.setattr(backbone_sources.sys, "version_info", python)
    with pytest.raises(ImportError, match=f"hub:vit takes its network from KerasHub.*{message}"):
        backbone_sources.check_backbone_source("hub:vit")


def test_a_file_of_keras_hub_where_that_is_missing_says_so(written, tmp_path, monkeypatch):
    path = tmp_path / "embedder.keras"
    keras_ms.build_embedder(f"hub:{written[0]}", embedding_size=4).save(path)

    def missing(*args, **options):
        raise TypeError("its parent module keras_hub.src.models cannot be imported.")

    def version(name):
        raise backbone_sources.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(keras.saving, "load_model", missing)
    monkeypatch.setattr(
        backbone_sources.metadata,
        "version",
        lambda name: "3.15.1" if name == "keras" else version(name),
    )
    with pytest.raises(ImportError, match=r"embedder.keras takes.*pip install -e"):
        keras_ms.models.keras_file.load_keras_file(path)
