"""What is known of backbones without Keras, against the networks themselves."""

import zipfile

import keras
import pytest
from small_networks import functional, sequential

import keras_ms
from keras_ms.cli.backbones import backbone_table
from keras_ms.models.backbone_names import (
    NORMALISATION_NAMES,
    backbone_kind,
    backbone_label,
    check_backbone_name,
)
from keras_ms.models.backbone_sources import known_image_size
from keras_ms.models.backbones import BACKBONES, build_backbone
from keras_ms.models.normalisation import NORMALISATIONS

LISTED = {listed.name: listed for listed in keras_ms.list_backbones()}
# those whose networks are built in a second or two
SMALL = ("small", "small_wide", "small_deep", "mobilenet_v3_small")
# of BN-Inception no size of its ImageNet weights is odd enough: these it takes
SIDES = {"bn_inception": 224}


def test_every_name_is_listed():
    assert list(LISTED) == list(BACKBONES)
    assert set(NORMALISATION_NAMES) <= {"auto", "none", *NORMALISATIONS}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SMALL else [pytest.mark.slow, pytest.mark.release])
        for name in LISTED
    ],
)
def test_the_facts_are_those_of_the_network(name):
    side = SIDES.get(name, 96)
    network = build_backbone(name, input_shape=(side, side, 3))
    assert network.count_params() == LISTED[name].parameters
    if LISTED[name].weights == "none":
        with pytest.raises(ValueError, match="no ImageNet weights"):
            build_backbone(name, input_shape=(side, side, 3), weights="imagenet")
    # a download is not tried: no network in tests
    assert LISTED[name].needs_download == (LISTED[name].weights == "download")


def test_the_words_of_one_normalisation_are_the_same():
    words = {}
    for name, backbone in BACKBONES.items():
        if backbone.normalisation is not None:
            words.setdefault(backbone.normalisation, set()).add(LISTED[name].normalisation)
    assert all(len(one) == 1 for one in words.values()), words


def test_the_table_has_a_line_for_each():
    lines = backbone_table(keras_ms.list_backbones()).splitlines()
    assert len(lines) == 1 + len(LISTED)
    (line,) = [line for line in lines if line.startswith("mobilenet_v2")]
    assert line.split() == [
        "mobilenet_v2", "224", "2.3", "M", "-1", "to", "1", "--weights", "imagenet,", "downloaded",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "backbone, kind, label",
    [
        ("resnet50", "name", "resnet50"),
        ("nets/mine.keras", "file", "mine"),
        ("hub:vit_base_patch16_224_imagenet", "hub", "vit_base_patch16_224_imagenet"),
        ("hub:hf://facebook/dinov2-small", "hub", "dinov2-small"),
        ("hub:./presets/tiny/", "hub", "tiny"),
    ],
)
def test_kinds_and_labels(backbone, kind, label):
    check_backbone_name(backbone)
    assert (backbone_kind(backbone), backbone_label(backbone)) == (kind, label)


@pytest.mark.parametrize(
    "backbone, message",
    [
        ("mobilnet_v2", "Unknown backbone. Nearest: mobilenet_v2.*path of a .keras file, or hub:"),
        ("hub:", "name or the folder of a preset behind hub:"),
    ],
)
def test_names_that_there_are_not(backbone, message):
    with pytest.raises(ValueError, match=message):
        check_backbone_name(backbone)


def test_the_size_of_a_file_is_read_without_keras(tmp_path):
    path = str(tmp_path / "network.keras")
    for network, side in (
        (functional(sides=(48, 48)), 48),
        (functional(sides=(48, 40)), None),
        (functional(), None),
        (keras.Sequential([keras.Input((24, 24, 3)), *sequential().layers]), 24),
    ):
        network.save(path)
        assert known_image_size(path) == side
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "[1]")
    assert known_image_size(path) is None
    assert known_image_size(str(tmp_path / "nowhere.keras")) is None
