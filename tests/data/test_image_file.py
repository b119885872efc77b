"""One image file: judged and read by the same decoders, in every format, upright."""

import io
import os
import struct
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from fuzz_image_files import fuzz, sound_files
from PIL import Image, features

from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.exif_orientation import turned, turned_back
from keras_ms.data.image_file import (
    SUFFIXES,
    _find_formats,
    image_fault,
    num_pixels,
    read_pixels,
)
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import decoded_images, evaluation_batches
from keras_ms.data.plain_jpeg import plain_jpeg
from keras_ms.data.read_images import crop, decode, opened, read_crop, read_image
from keras_ms.report.pictures import picture

UNIFORM = tf.constant([0.2, 0.7, 0.4, 0.6, 0.0])
WINDOW = (0.3, 0.5), (0.7, 1.4)


def photo(width=61, height=43):
    coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def written(folder, name, contents):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(contents)
    return path


def tiff(pixels, bits, white_is_zero=False):
    """A TIFF of grey values, as Pillow does not write them."""
    height, width = pixels.shape
    if bits == 12:  # two values in three bytes
        first, second = pixels.reshape(-1, 2).T.astype(int)
        data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1)
        data = data.astype(np.uint8).tobytes()
    else:
        data = pixels.astype("<u2").tobytes()
    tags = {
        256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8,
        277: 1, 278: height, 279: len(data),
    }  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return head + struct.pack("<H", len(tags)) + table + bytes(4)


def png(pixels, colours, extra=()):
    """A PNG of 16 bits a channel, which Pillow writes of grey only."""
    import zlib

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def assert_all_readers_see(path, expected, tolerance=0):
    """Every reader of the file sees the same pixels, those of `expected` but for `tolerance`."""
    assert image_fault(path) is None
    pixels = read_pixels(path)
    assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
    assert np.abs(pixels - expected.astype(int)).max() <= tolerance
    assert (read_image(path).numpy() == pixels).all()
    window = np.asarray(crop(pixels, UNIFORM, *WINDOW))
    found = read_crop(path, UNIFORM, *WINDOW).numpy()
    assert found.shape == window.shape and np.abs(found - window.astype(int)).mean() < 2


def refused(path, words):
    """All readers refuse the file, by its name and in the same words."""
    assert words in image_fault(path)
    for read in (
        read_pixels,
        read_image,
        lambda path: read_crop(path, UNIFORM, *WINDOW),
        lambda path: picture(ImageList([path], [0], "a", ["test"]), 0, size=16),
    ):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as error:
            read(path)
        assert path in str(error.value) and words in str(error.value)


# --- formats


def test_every_format_is_read_with_its_own_pixels(tmp_path):
    rgb = photo()
    alpha = np.random.default_rng(1).integers(0, 256, (43, 61), np.uint8)
    transparent = rgb.convert("RGBA")
    transparent.putalpha(Image.fromarray(alpha))
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    bits, grey = rgb.convert("1"), rgb.convert("L")
    film = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    exact = {"lossless": True, "exact": True}
    for contents, source in (
        *((saved(palette, kind), palette) for kind in ("PNG", "GIF", "BMP", "TIFF")),
        (saved(palette, "PNG", transparency=bytes(range(256))), palette),
        (saved(palette, "PNG", transparency=7), palette),
        (saved(palette, "GIF", transparency=7), palette),
        *((saved(bits, kind), bits) for kind in ("PNG", "BMP", "TIFF")),
        (saved(bits, "TIFF", compression="group4"), bits),
        *((saved(grey, kind), grey) for kind in ("PNG", "BMP", "TIFF")),
        *((saved(transparent, kind), rgb) for kind in ("PNG", "TIFF")),
        *((saved(transparent.convert("LA"), kind), grey) for kind in ("PNG", "TIFF")),
        (saved(transparent, "WEBP", **exact), rgb),
        (saved(rgb.convert("CMYK"), "TIFF"), rgb),
        (saved(rgb, "PNG", **film), rgb),
        (saved(rgb, "TIFF", **film), rgb),
        (saved(rgb, "WEBP", lossless=True, **film), rgb),
    ):
        # the ending lies for most of them
        assert_all_readers_see(
            written(tmp_path, "any.jpg", contents), np.asarray(source.convert("RGB"))
        )


def test_jpegs_of_every_kind_are_read(tmp_path):
    rgb = photo()
    best = {"quality": 100, "subsampling": 0}
    inks = rgb.convert("CMYK")
    for contents, source in (
        (saved(rgb, "JPEG", **best), rgb),
        (saved(rgb, "JPEG", progressive=True, **best), rgb),
        (saved(rgb.convert("L"), "JPEG", quality=100), rgb.convert("L")),
        (saved(inks, "JPEG", **best), rgb),
        # of several pictures the first
        (saved(rgb, "MPO", save_all=True, append_images=[rgb.rotate(90)], **best), rgb),
        (saved(rgb, "JPEG", **best) + b"appended by an editor", rgb),
    ):
        path = written(tmp_path, "any.png", contents)
        assert_all_readers_see(path, np.asarray(source.convert("RGB")), tolerance=6)


def test_of_16_bits_the_upper_8_are_read(tmp_path):
    random = np.random.default_rng(0)
    grey = random.integers(0, 2**16, (20, 30), np.uint16)
    upper = np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, -1)
    for contents, expected in (
        (saved(Image.fromarray(grey), "PNG"), upper),
        (png(grey, 0, [(b"tRNS", b"\x12\x34")]), upper),
        (saved(Image.fromarray(grey), "TIFF"), upper),
        (saved(Image.fromarray(grey), "TIFF", compression="tiff_lzw"), upper),
        (tiff(grey, 16), upper),
        (tiff(grey, 16, white_is_zero=True), 255 - upper),
        (tiff(grey >> 4, 12), upper),
    ):
        assert_all_readers_see(written(tmp_path, "any.tif", contents), expected)
    for colours, channels in ((2, 3), (6, 4), (4, 2)):
        pixels = random.integers(0, 2**16, (20, 30, channels), np.uint16)
        expected = (pixels[..., :3] if channels > 2 else pixels[..., [0, 0, 0]]) >> 8
        path = written(tmp_path, "deep.png", png(pixels, colours))
        assert_all_readers_see(path, expected.astype(np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (7, 8)])
def test_thin_pictures_are_read(tmp_path, size):
    for kind, options in (
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {}),
    ):  # fmt: skip
        path = written(tmp_path, "thin", saved(photo(*size), kind, **options))
        assert_all_readers_see(path, read_pixels(path))
        assert read_pixels(path).shape == (*size[::-1], 3)


def test_what_cannot_be_read_is_refused_by_name_and_reason(tmp_path):
    number = Image.fromarray(np.zeros((5, 5), np.float32))
    whole = saved(photo(), "JPEG")
    for contents, words in (
        (b"", "the file is empty"),
        (b"a text", "not an image"),
        (saved(photo(), "PPM"), "its content is PPM; expected one of JPEG"),
        (saved(number, "TIFF"), "mode F"),
        (saved(Image.fromarray(np.zeros((5, 5), np.int32)), "TIFF"), "mode I"),
        (b"\x89PNG\r\n\x1a\n and no more", "a damaged PNG"),
        (whole[:-1], "truncated"),
        (whole[: len(whole) // 2], "truncated"),
        (saved(photo(), "PNG")[:-90], "truncated"),
    ):
        refused(written(tmp_path, "photo.jpg", contents), words)
    assert image_fault(tmp_path) == "Is a directory"
    assert image_fault(tmp_path / "gone.jpg") == "No such file or directory"
    for read in (read_pixels, read_image):
        with pytest.raises((FileNotFoundError, tf.errors.NotFoundError), match="gone.jpg"):
            read(str(tmp_path / "gone.jpg"))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    path = written(tmp_path, "a.avif", saved(photo(), "AVIF", quality=100, subsampling="4:4:4"))
    assert_all_readers_see(path, np.asarray(photo()), tolerance=12)


def test_a_format_that_this_pillow_lacks_is_named(tmp_path, monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    avif = b"\0\0\0\x1cftypavif" + bytes(40)
    refused(written(tmp_path, "a.avif", avif), "its content is AVIF; Pillow from 11.3 on reads it")


HEIC = b"\0\0\0\x18ftypheic" + bytes(40)


@pytest.fixture
def without_heic(monkeypatch):
    """No plugin for HEIC is there, whatever is installed."""
    Image.init()
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    monkeypatch.setattr(Image, "OPEN", {name: Image.OPEN[name] for name in Image.ID})
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    _find_formats.cache_clear()
    yield
    _find_formats.cache_clear()


class Heif(Image.Image):
    """As a plugin opens a file: here always `photo()`."""

    format = "HEIF"

    def __init__(self, file, name):
        super().__init__()
        self.im, self._mode, self._size = photo().im, "RGB", photo().size


def register_heif():
    Image.register_open("HEIF", Heif, lambda prefix: prefix[4:8] == b"ftyp")


@pytest.mark.usefixtures("without_heic")
def test_without_a_plugin_heic_is_named_and_what_reads_it(tmp_path):
    refused(written(tmp_path, "a.heic", HEIC), "its content is HEIC; with pip install pillow-heif")
    mif1 = HEIC.replace(b"heic", b"mif1")
    refused(written(tmp_path, "b.heic", mif1), "its content is HEIC")


@pytest.mark.usefixtures("without_heic")
def test_a_registered_plugin_reads_heic(tmp_path):
    register_heif()
    path = written(tmp_path, "a.heic", HEIC)
    assert_all_readers_see(path, np.asarray(photo()))


@pytest.mark.usefixtures("without_heic")
def test_an_installed_plugin_is_registered_for_heic(tmp_path, monkeypatch):
    package = SimpleNamespace(register_heif_opener=register_heif)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    path = written(tmp_path, "a.heic", HEIC)
    assert num_pixels(path) == 61 * 43
    assert_all_readers_see(path, np.asarray(photo()))


def test_heic_of_a_phone_is_read_and_upright(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason='needs pip install -e ".[heic]"')
    upright = photo()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, as phones that are held upright write
    path = str(tmp_path / "a.heic")
    pillow_heif.from_pillow(upright.rotate(90, expand=True)).save(path, exif=exif.tobytes())
    assert_all_readers_see(path, np.asarray(upright), tolerance=40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_pillows_limit_against_bombs_holds_for_every_reader(tmp_path, monkeypatch, kind):
    # Pillow refuses more than twice this many pixels, and warns of more
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        below = written(tmp_path, "below", saved(photo(50, 40), kind))
        assert_all_readers_see(below, read_pixels(below))
        refused(written(tmp_path, "above", saved(photo(50, 41), kind)), "exceeds limit")


def test_all_endings_are_those_of_formats_that_are_read():
    assert {".jpg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".avif", ".heic"} <= set(SUFFIXES)
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in SUFFIXES)


# --- EXIF

ORIENTED = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a),
}  # fmt: skip


def tagged(kind, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(photo(), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "WEBP", "TIFF", "LZW"])
def test_photos_are_turned_as_exif_says(tmp_path, kind, orientation):
    kind, options = {
        "WEBP": ("WEBP", {"lossless": True}), "LZW": ("TIFF", {"compression": "tiff_lzw"}),
        "progressive": ("JPEG", {"progressive": True}),
    }.get(kind, (kind, {}))  # fmt: skip
    path = written(tmp_path, "photo", tagged(kind, orientation, **options))
    stored = read_pixels(path, apply_exif_orientation=False)
    assert stored.shape == (43, 61, 3)
    assert np.abs(stored - np.asarray(photo(), int)).mean() < 8  # and not turned
    assert (read_image(path, apply_exif_orientation=False).numpy() == stored).all()
    expected = ORIENTED[orientation](stored)
    assert_all_readers_see(path, expected)
    assert (turned(stored, orientation) == expected).all()
    assert (turned_back(expected, orientation) == stored).all()


def test_every_way_to_a_photo_turns_it_or_leaves_it(tmp_path):
    """Evaluation, training from files and from the cache, pages: upright, or all as stored."""
    path = written(tmp_path, "photo.png", tagged("PNG", 6))
    images = ImageList([path] * 4, [0, 0, 1, 1], "ab", ["train"] * 4)
    upright = np.asarray(photo().transpose(Image.Transpose.ROTATE_270))
    assert upright.shape == (61, 43, 3)
    square = upright[9 : 9 + 43]
    ((evaluated, _),) = evaluation_batches(images, 43, resize_to=43)
    assert (evaluated[0].numpy() == square).all()
    whole = {"image_size": 43, "crop_scale": None, "flip": False, "classes_per_batch": 2}
    for cache in (False, True):
        trained, _ = next(iter(balanced_batches(images, images_per_class=2, cache=cache, **whole)))
        assert (trained[0].numpy() == square).all()
    assert (np.asarray(picture(images, 0, size=43)) == square).all()
    stored = np.asarray(photo())[:, 9 : 9 + 43]
    leave = {"apply_exif_orientation": False}
    images = replace(images, **leave)
    ((evaluated, _),) = evaluation_batches(images, 43, resize_to=43)
    assert (evaluated[0].numpy() == stored).all()
    assert (np.asarray(picture(images, 0, size=43)) == stored).all()
    assert (decoded_images([path], True, **leave)(0).numpy() == np.asarray(photo())).all()


@pytest.mark.parametrize("value", [0, 9, 77])
def test_orientations_that_mean_nothing_are_none(tmp_path, value):
    path = written(tmp_path, "photo.jpg", tagged("JPEG", value))
    assert read_pixels(path).shape == (43, 61, 3)


def test_exif_that_cannot_be_read_is_no_orientation(tmp_path):
    contents = tagged("JPEG", 6)
    start = contents.index(b"Exif\0\0") + 6
    for broken in (b"\0" * 8, b"II*\0\xff\xff\xff\xff", contents[start : start + 8]):
        changed = contents[:start] + broken + contents[start + 8 :]
        path = written(tmp_path, "photo.jpg", changed)
        assert image_fault(path) is None
        assert read_pixels(path).shape == ((61, 43, 3) if changed == contents else (43, 61, 3))


def test_an_orientation_that_only_xmp_holds_counts(tmp_path):
    """As it does for Pillow's exif_transpose, which docs/runtimes.md feeds exported models by."""
    packet = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="8"/>'
    plain = saved(photo(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(packet) + 2) + packet
    path = written(tmp_path, "photo.jpg", plain[:2] + segment + plain[2:])
    assert plain_jpeg(plain[:2] + segment + plain[2:]).orientation == 8
    assert read_pixels(path).shape == (61, 43, 3)


# --- plain JPEGs, and the agreement of all readers


def test_usual_jpegs_take_the_fast_way_and_others_do_not():
    rgb = photo()
    for options in (
        {}, {"quality": 30}, {"subsampling": 0}, {"subsampling": 1}, {"optimize": True},
        {"restart_marker_blocks": 3},
    ):  # fmt: skip
        assert plain_jpeg(saved(rgb, "JPEG", **options)) == (43, 61, 1)
    assert plain_jpeg(saved(rgb.convert("L"), "JPEG")) == (43, 61, 1)
    assert plain_jpeg(tagged("JPEG", 5)) == (43, 61, 5)
    for contents in (
        saved(rgb, "JPEG", progressive=True), saved(rgb.convert("CMYK"), "JPEG"),
        saved(rgb, "PNG"), b"", b"\xff\xd8\xff", saved(rgb, "JPEG")[:-2],
    ):  # fmt: skip
        assert plain_jpeg(contents) is None


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}])
def test_a_crop_of_a_jpeg_is_the_whole_pictures_but_along_its_border(tmp_path, options):
    path = written(tmp_path, "photo.jpg", saved(photo(161, 143), "JPEG", **options))
    pixels = read_pixels(path)
    for uniform in tf.random.stateless_uniform((8, 5), (0, 1)):
        found = read_crop(path, uniform, *WINDOW).numpy().astype(int)
        expected = np.asarray(crop(pixels, uniform, *WINDOW))
        assert found.shape == expected.shape
        # another transform of the blocks would be as much as 5 away everywhere
        assert np.abs(found - expected)[3:-3, 3:-3].max() <= 1


def test_a_jpeg_with_a_table_of_no_code_is_not_plain():
    contents = saved(photo(), "JPEG")
    table = contents.index(b"\xff\xc4") + 4
    # three codes of one bit
    assert plain_jpeg(contents[: table + 1] + b"\3" + contents[table + 2 :]) is None


def test_readers_agree_on_damaged_files(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts, complaints = fuzz(10 * len(sound_files()), 1, tmp_path)
    assert not complaints, "\n".join(complaints)
    # the verdicts differ, or nothing was tried
    assert sum(read for read, _ in counts.values()) > 10
    assert sum(refused for _, refused in counts.values()) > 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF"])
def test_a_file_damaged_after_the_check_is_named_while_training(tmp_path, kind):
    paths = [written(tmp_path, f"{n}.jpg", saved(photo(), kind)) for n in range(4)]
    images = ImageList(paths, [0, 0, 1, 1], "ab", ["train"] * 4)
    options = {"classes_per_batch": 2, "images_per_class": 2, "image_size": 16}
    batches = {cache: balanced_batches(images, cache=cache, **options) for cache in (False,)}
    with open(paths[2], "rb+") as file:
        file.truncate(os.path.getsize(paths[2]) // 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="2.jpg"):
        next(iter(batches[False]))
    # the cache is filled when the pipeline is made
    with pytest.raises(tf.errors.InvalidArgumentError, match="2.jpg"):
        balanced_batches(images, cache="auto", **options)
    with pytest.raises(tf.errors.InvalidArgumentError, match="2.jpg"):
        list(evaluation_batches(images, 16))


def test_files_opened_together_are_those_opened_alone(tmp_path):
    """More than are opened at a time, of mixed kinds, in order."""
    kinds = ["JPEG", "PNG", "GIF"]
    paths = [written(tmp_path, f"{n}", saved(photo(20 + n, 15), kinds[n % 3])) for n in range(21)]
    dataset = opened(tf.data.Dataset.from_tensor_slices((paths, np.arange(21))))
    found = [(file.path.numpy().decode(), int(n), file.structure.numpy()) for file, n in dataset]
    assert [(path, n) for path, n, _ in found] == list(zip(paths, range(21)))
    assert [tuple(structure) for _, _, structure in found] == [
        (15, 20 + n, 1) if n % 3 == 0 else (0, 0, 0) for n in range(21)
    ]


def test_bytes_with_zeros_at_their_end_are_read_whole():
    contents = saved(photo(), "BMP") + bytes(2)
    assert (decode(contents).numpy() == np.asarray(photo())).all()


def test_pixels_are_counted_from_headers(tmp_path):
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert num_pixels(written(tmp_path, "a", saved(photo(), kind))) == 61 * 43
    # whoever reads the file says what is wrong with it
    assert num_pixels(written(tmp_path, "a", b"text")) == num_pixels(tmp_path / "gone") == 0
