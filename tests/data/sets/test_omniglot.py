"""Omniglot's loader, on small archives of the same form and on the real ones."""

import io

import numpy as np
import pytest
from PIL import Image
from small_omniglot import BACKGROUND, EVALUATION, drawing, write_archives

from keras_ms.data.sets.omniglot import frame_drawing, load_omniglot

few = pytest.mark.filterwarnings("ignore:.*Figures will not compare")


@few
def test_classes_splits_and_names(tmp_path):
    characters = load_omniglot(write_archives(tmp_path))
    assert characters.class_names == (
        "Armenian/character01",
        "Armenian/character02",
        "Greek/character01",
        "Greek/character02",
        "Tengwar/character01",
    )
    assert characters.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    assert characters.split.tolist() == ["train"] * 12 + ["test"] * 2
    assert characters.images.shape == (14, 35, 35, 1) and characters.images.dtype == np.uint8
    assert characters.paths[-1].endswith("images_evaluation/Tengwar/character01/0009_02.png")


@few
@pytest.mark.parametrize("side", [21, 35, 105])
def test_pixels_are_means_of_areas_with_dark_ink(tmp_path, side):
    write_archives(tmp_path)
    image = load_omniglot(tmp_path, image_size=side).images[0, :, :, 0].astype(float)
    original = np.full((105, 105), 255.0)
    original[:, 11:17] = 0
    block = 105 // side
    means = original.reshape(side, block, side, block).mean(axis=(1, 3))
    np.testing.assert_allclose(image, means, atol=1)


def sheet(*corners):
    """A drawing with one black rectangle: (top, left, bottom, right)."""
    pixels = np.full((105, 105), 255, np.uint8)
    if corners:
        top, left, bottom, right = corners
        pixels[top:bottom, left:right] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(file, "PNG")
    return pixels, file.getvalue()


@few
@pytest.mark.parametrize(
    "corners, square",
    [
        ((10, 20, 50, 40), (6, 6, 54, 54)),  # 40 x 20: a square of 1.2 * 40 about (30, 30)
        ((0, 0, 60, 30), (-6, -21, 66, 51)),  # reaches over the edge of the paper
        ((85, 100, 105, 105), (83, 90.5, 107, 114.5)),
        ((50, 50, 54, 54), (40, 40, 64, 64)),  # a dot stays small
        ((), (0, 0, 105, 105)),
    ],
)
def test_framed_drawings_are_squares_about_the_ink(tmp_path, corners, square):
    pixels, content = sheet(*corners)
    members = {f"images_evaluation/Tengwar/character01/0009_0{d}.png": content for d in (1, 2)}
    write_archives(tmp_path, evaluation=members)
    image = load_omniglot(tmp_path, image_size=12, framed=True).images[-1, :, :, 0]
    # literally: weights fall linearly to 0 at one output pixel's distance, in rows and columns
    paper = np.pad(pixels.astype(float), 105, constant_values=255.0)

    def weights(start, end):
        scale = max((end - start) / 12, 1.0)
        centres = start + 105 + (np.arange(12)[:, None] + 0.5) * (end - start) / 12
        found = np.maximum(0, 1 - np.abs(np.arange(315) + 0.5 - centres) / scale)
        return found / found.sum(axis=1, keepdims=True)

    top, left, bottom, right = square
    expected = weights(top, bottom) @ paper @ weights(left, right).T
    np.testing.assert_allclose(image, expected, atol=2)


def test_a_drawing_of_any_shape_is_framed_alike():
    small = np.full((40, 60), 255, np.uint8)
    small[10:30, 25:35] = 0
    framed = frame_drawing(small, 24)
    assert framed.shape == (24, 24) and framed.dtype == np.uint8
    # more paper around the same ink changes nothing, nor does the type of the picture
    large = np.pad(small, [(5, 15), (30, 0)], constant_values=255)
    assert np.array_equal(frame_drawing(large, 24), framed)
    assert np.array_equal(frame_drawing(Image.fromarray(small).convert("RGB"), 24), framed)
    # transparent black around and below half of the ink
    clear = np.zeros((40, 60, 4), np.uint8)
    clear[10:30, 25:35, 3] = 255
    assert np.array_equal(frame_drawing(Image.fromarray(clear), 24), framed)
    assert framed[12, 12] == 0 and (framed[[0, 1, 22, 23]] == 255).all()
    assert (frame_drawing(np.full((3, 9), 255, np.uint8), 4) == 255).all()
    for wrong in (small[None], small / 255):
        with pytest.raises(ValueError, match="PIL image or a uint8 array"):
            frame_drawing(wrong, 24)


@few
def test_original_names_and_foreign_members(tmp_path):
    members = {
        "images_evaluation/Tengwar/character01/0009_01.png": drawing(),
        "__MACOSX/images_evaluation/Tengwar/._0009_01.png": b"no picture",
        "images_evaluation/readme.txt": b"",
        "../../outside.png": b"no picture",
    }
    names = ("images_background.zip", "images_evaluation.zip")
    write_archives(tmp_path, evaluation=members, names=names)
    assert (load_omniglot(tmp_path).split == "test").sum() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_other_counts_are_told(tmp_path):
    write_archives(tmp_path)
    with pytest.warns(UserWarning) as told:
        load_omniglot(tmp_path)
    messages = [str(warning.message) for warning in told]
    assert len(messages) == 2
    assert "holds 4 characters with 3 to 3 drawings; Omniglot has 964 with 20 each" in messages[0]
    assert "holds 1 characters with 2 to 2 drawings; Omniglot has 659 with 20 each" in messages[1]


def test_missing_archives_are_named_together(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{BACKGROUND} and {EVALUATION}.*https://"):
        load_omniglot(tmp_path)
    write_archives(tmp_path)
    (tmp_path / EVALUATION).unlink()
    with pytest.raises(FileNotFoundError, match=f"'?: {EVALUATION}\\. Put them there"):
        load_omniglot(tmp_path)


@few
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_an_archive_that_is_none(tmp_path, content):
    write_archives(tmp_path)
    (tmp_path / EVALUATION).write_bytes(content)
    with pytest.raises(ValueError, match=f"{EVALUATION} is damaged or is no zip archive"):
        load_omniglot(tmp_path)


@few
def test_a_truncated_archive(tmp_path):
    write_archives(tmp_path)
    archive = tmp_path / BACKGROUND
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{BACKGROUND} is damaged"):
        load_omniglot(tmp_path)


@few
def test_a_flipped_byte_in_a_member(tmp_path):
    write_archives(tmp_path)
    archive = tmp_path / BACKGROUND
    content = bytearray(archive.read_bytes())
    content[120] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=f"{BACKGROUND}.*(damaged|cannot be read)"):
        load_omniglot(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"text", "cannot be read"),
        (drawing(side=64), "expected 105 x 105 pixels, received \\(64, 64\\)"),
        (drawing()[:60], "cannot be read"),
        (bytes(10_000_000), "would unpack to 10000000 bytes"),
    ],
)
def test_members_that_are_no_drawings_are_named(tmp_path, content, message):
    name = "images_background/Greek/character01/0001_01.png"
    write_archives(tmp_path, background={name: content})
    with pytest.raises(ValueError, match=f"{name} in .*{message}"):
        load_omniglot(tmp_path)


def test_an_archive_of_something_else(tmp_path):
    write_archives(tmp_path, background={"photos/cat.jpg": b"x"})
    with pytest.raises(ValueError, match="holds no drawings"):
        load_omniglot(tmp_path)


@few
def test_shared_characters_are_refused(tmp_path):
    members = {"images_evaluation/Greek/character01/0009_01.png": drawing()}
    write_archives(tmp_path, evaluation=members)
    with pytest.raises(ValueError, match="share characters"):
        load_omniglot(tmp_path)


@pytest.mark.parametrize("side", [0, 7, 106, 28.0, "28", True])
def test_impossible_sizes(tmp_path, side):
    with pytest.raises(ValueError, match="Invalid value for `image_size`"):
        load_omniglot(write_archives(tmp_path), image_size=side)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_the_real_archives(shared_data):
    if not (shared_data / BACKGROUND).is_file():
        pytest.skip(f"no {BACKGROUND} in {shared_data}")
    characters = load_omniglot(shared_data, image_size=28)
    counts = np.bincount(characters.labels)
    assert len(counts) == len(characters.class_names) == 964 + 659 and (counts == 20).all()
    train, test = characters.subset("train"), characters.subset("test")
    assert (len(train), len(test)) == (19_280, 13_180)
    alphabets = [
        {characters.class_names[label].split("/")[0] for label in part.labels}
        for part in (train, test)
    ]
    assert (len(alphabets[0]), len(alphabets[1])) == (30, 20)
    assert not alphabets[0] & alphabets[1]
    # paper is white and most of the picture
    assert 0.8 < characters.images.mean() / 255 < 0.98
