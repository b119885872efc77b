"""The drawn data set: determinism, class-disjoint scripts, variety, and how hard its pixels are."""

import unicodedata

import numpy as np
import pytest

from keras_ms.data.sets.glyph_style import draw_character
from keras_ms.data.sets.glyphs import distinct_characters, draw_glyphs


@pytest.fixture(scope="module")
def glyphs():
    return draw_glyphs(image_size=32, images_per_class=4)


@pytest.fixture(scope="module")
def characters():
    return {item.character: item for item in distinct_characters()}


def test_shapes_and_counts(glyphs):
    assert glyphs.name == "glyphs"
    assert glyphs.images.dtype == np.uint8
    assert glyphs.images.shape == (len(glyphs), 32, 32, 3)
    assert (np.bincount(glyphs.labels) == 4).all()
    assert len(np.unique(glyphs.labels[glyphs.split == "train"])) >= 300
    assert len(np.unique(glyphs.labels[glyphs.split == "test"])) >= 80
    assert set(glyphs.split) == {"train", "test"}
    assert len(set(glyphs.paths)) == len(glyphs)


def test_class_names_are_unicodes(glyphs):
    assert len(set(glyphs.class_names)) == len(glyphs.class_names)
    for name in glyphs.class_names:
        unicodedata.lookup(name)
    assert "latin capital letter a" in glyphs.class_names
    assert "hebrew letter alef" in glyphs.class_names


def test_scripts_lie_whole_in_one_split(glyphs):
    script_splits = {}
    for label, split in zip(glyphs.labels, glyphs.split):
        script = glyphs.class_names[label].split()[0]
        script_splits.setdefault(script, set()).add(split)
    for script in ("latin", "cyrillic", "armenian", "canadian"):
        assert script_splits[script] == {"train"}
    for script in ("greek", "hebrew", "georgian", "lao", "tifinagh"):
        assert script_splits[script] == {"test"}


@pytest.mark.parametrize("pair", ["cC", "oO", "AΑ", "AА", "oо", "sS", "ոn"])
def test_characters_that_look_alike_are_one_class(characters, pair):
    assert sum(character in characters for character in pair) <= 1


@pytest.mark.parametrize("pair", ["ad", "AB", "ДФ", "αζ", "אב"])
def test_characters_that_look_different_are_both_kept(characters, pair):
    assert set(pair) <= set(characters)


def test_fonts_have_the_characters_and_masters_differ(characters):
    # a serif, a sans serif and a monospaced family in several cuts
    assert len(characters["A"].masters) >= 12
    for item in characters.values():
        for master in item.masters:
            ink = np.asarray(master) > 127
            assert ink.any()
            # the ink's longer side is about 60 pixels of 96, centred
            rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
            assert 50 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 62


@pytest.mark.slow
def test_equal_arguments_give_equal_images(glyphs):
    again = draw_glyphs(image_size=32, images_per_class=4)
    np.testing.assert_array_equal(again.images, glyphs.images)
    np.testing.assert_array_equal(again.labels, glyphs.labels)
    assert again.class_names == glyphs.class_names


def test_another_seed_draws_other_images(characters):
    masters = characters["A"].masters
    first, again, other = (
        draw_character(masters, 32, count=5, seed=seed) for seed in ((0, 65), (0, 65), 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2, 3)).all()


def test_no_image_is_blank_or_drawn_twice(glyphs):
    assert glyphs.images.std(axis=(1, 2, 3)).min() > 3
    assert len(np.unique(glyphs.images.reshape(len(glyphs), -1), axis=0)) == len(glyphs)


def test_raw_pixels_say_little_but_more_than_chance(glyphs):
    test = glyphs.subset("test")
    pixels = test.images.reshape(len(test), -1).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    similarity = pixels @ pixels.T
    np.fill_diagonal(similarity, -2)
    recall = np.mean(test.labels[similarity.argmax(axis=1)] == test.labels)
    classes = len(np.unique(test.labels))
    assert 3 / classes < recall < 0.4


def test_validation_classes_can_be_held_out(glyphs):
    held_out = glyphs.hold_out_validation(0.2)
    assert set(held_out.split) == {"train", "validation", "test"}
    np.testing.assert_array_equal(held_out.split == "test", glyphs.split == "test")


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": 8},
        {"image_size": 64.0},
        {"images_per_class": 1},
        {"images_per_class": True},
        {"seed": -1},
    ],
)
def test_arguments_out_of_range_are_named(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}="):
        draw_glyphs(**arguments)


def test_missing_fonts_are_explained(monkeypatch, tmp_path):
    import matplotlib

    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="fonts that matplotlib ships"):
        draw_glyphs()
