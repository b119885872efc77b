"""The rule by which an exported file is fed, written and read back."""

import json

import keras
import pytest
from keras import layers
from small_exports import (
    INPUT_ALONE,
    WRITERS,
    facts_of,
    features,
    files_under,
    open_sizes,
    small_embedder,
)

from keras_ms.export import (
    Preprocessing,
    export_saved_model,
    read_preprocessing,
)


@pytest.fixture
def model():
    return small_embedder()


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_says_how_it_is_fed(name, model, tmp_path):
    rule = Preprocessing(16, resize_to=18, before_resizing="cut to a square around the ink.")
    WRITERS[name](model, tmp_path / name, preprocessing=rule)
    facts = facts_of(tmp_path / name)
    assert facts["preprocessing_rule"] == INPUT_ALONE | {
        "exif_orientation": True,
        "grey": "repeated to 3 channels",
        "transparency": "ignored",
        "before_resizing": "cut to a square around the ink.",
        "shorter_side": 18,
        "longer_side": "in proportion, whole pixels, halves to even",
        "filter": "bilinear",
        "antialias": True,
        "pixel_values": "whole",
        "crop": "centre",
        "odd_pixel": "cut off right or below",
    }
    assert facts["preprocessing"] == (
        "Decode the picture to RGB, turned as the EXIF orientation says; grey is repeated to "
        "3 channels, transparency ignored. Before resizing: cut to a square around the ink. "
        "Resize the image to a shorter side of 18 pixels, the longer one in proportion and "
        "rounded to whole pixels (halves to even), bilinear with antialiasing as Pillow's "
        "BILINEAR, values rounded to whole ones. Cut 16 x 16 pixels (width x height) out of the "
        "centre, from the left (width - 16) // 2 and the top (height - 16) // 2 on. Pass float32 "
        "values 0-255, not normalised, of shape (batch, height, width, channels), NHWC, with 3 "
        "channels in the order red, green, blue."
    )
    assert read_preprocessing(tmp_path / name) == rule


@pytest.mark.parametrize("name", WRITERS)
def test_a_rule_takes_what_the_model_says(name, tmp_path):
    WRITERS[name](
        small_embedder(input_dtype="uint8"), tmp_path / name,
        preprocessing=Preprocessing(resize_to=18, exif_orientation=False),
    )  # fmt: skip
    facts = facts_of(tmp_path / name)
    assert facts["preprocessing_rule"]["dtype"] == "uint8"
    assert "as stored, the EXIF orientation ignored" in facts["preprocessing"]
    found = read_preprocessing(tmp_path / name)
    assert found == Preprocessing(16, resize_to=18, exif_orientation=False)
    # a model of any size takes that of the rule
    WRITERS[name](open_sizes(), tmp_path / name, preprocessing=Preprocessing(24, resize_to=27))
    assert read_preprocessing(tmp_path / name) == Preprocessing(24, resize_to=27)


def _grey():
    inputs = layers.Input((8, 12, 1))
    return keras.Model(inputs, layers.Flatten()(inputs))


@pytest.mark.parametrize("name", WRITERS)
def test_models_that_no_rule_fits(name, model, tmp_path):
    WRITERS[name](features(), tmp_path / name)
    assert facts_of(tmp_path / name)["preprocessing"] == "float32, 10"
    assert read_preprocessing(tmp_path / name) is None
    WRITERS[name](_grey(), tmp_path / name)
    rule = INPUT_ALONE | {"height": 8, "width": 12, "colours": "grey"}
    facts = facts_of(tmp_path / name)
    assert facts["preprocessing_rule"] == rule
    assert "12 x 8 pixels (width x height)" in facts["preprocessing"]
    unknown = Preprocessing((8, 12), exif_orientation=None)
    assert read_preprocessing(tmp_path / name) == unknown
    # words of the user's own, alone
    words = {"preprocessing": "BGR, mean 104, 117, 124 taken off"}
    WRITERS[name](model, tmp_path / name, metadata=words)
    assert facts_of(tmp_path / name)["preprocessing"] == words["preprocessing"]
    assert read_preprocessing(tmp_path / name) is None


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    "build, options, message",
    [
        (small_embedder, {"preprocessing": "squash"}, "as keras_ms.Preprocessing.*'squash'"),
        (small_embedder, {"preprocessing": Preprocessing(32, 36)}, r"\(16, 16\).*image_size=32"),
        (small_embedder, {"preprocessing": Preprocessing(resize_to=15)}, "`resize_to` of at least"),
        (features, {"preprocessing": Preprocessing(10, 12)}, "a model of RGB images"),
        (_grey, {"preprocessing": Preprocessing(resize_to=12)}, "a model of RGB images"),
        (open_sizes, {"preprocessing": Preprocessing(resize_to=12)}, "needs an `image_size`"),
        (
            small_embedder,
            {"preprocessing": Preprocessing(16), "metadata": {"preprocessing": "BGR"}},
            "once",
        ),
        (small_embedder, {"metadata": {"preprocessing_rule": {}}}, "once"),
    ],
)
def test_refuses_rules_that_do_not_fit(build, options, message, name, tmp_path):
    with pytest.raises(ValueError, match=message):
        WRITERS[name](build(), tmp_path / name, **options)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize(
    "values, message",
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": (1, 2, 3)}, r"\(height, width\)"),
        ({"image_size": 16, "resize_to": 15}, "`resize_to` of at least 16"),
        ({"image_size": (16, 20), "resize_to": 18}, "`resize_to` of at least 20"),
        ({"image_size": 16, "resize_to": 17.5}, "whole number"),
        ({"exif_orientation": "yes"}, "True, False or None"),
        ({"before_resizing": None}, "as text"),
    ],
)
def test_rules_that_say_nothing_sensible(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


def test_a_rule_of_another_version_is_not_guessed_at(model, tmp_path):
    export_saved_model(model, tmp_path / "sm", preprocessing=Preprocessing(16, 18))
    file = tmp_path / "sm" / "assets.extra/keras_ms.json"
    facts = json.loads(file.read_text())
    for changed in ({"filter": "bicubic"}, {"height": "many"}, {"shorter_side": 3}):
        rule = facts["preprocessing_rule"] | changed
        file.write_text(json.dumps(facts | {"preprocessing_rule": rule}))
        with pytest.raises(ValueError, match="`preprocessing_rule` in sm as this version"):
            read_preprocessing(tmp_path / "sm")
    file.write_text(json.dumps(facts | {"preprocessing_rule": "squash"}))
    with pytest.raises(ValueError, match="Received: 'squash'"):
        read_preprocessing(tmp_path / "sm")
    # files of earlier versions hold none, and those of other programs not even the file
    file.write_text(json.dumps({"preprocessing": "RGB, 0-255, float32, NHWC, 16x16"}))
    assert read_preprocessing(tmp_path / "sm") is None
    file.unlink()
    assert read_preprocessing(tmp_path / "sm") is None
    with pytest.raises(FileNotFoundError, match="No exported model"):
        read_preprocessing(tmp_path / "nothing")
    with pytest.raises(ValueError, match="Expected an ONNX file"):
        read_preprocessing(__file__)
