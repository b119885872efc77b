"""Damages image files and asks every reader: all read the same pixels, or all refuse by name.

    python tests/fuzz_image_files.py [--files 3000] [--seed 0]

prints what was found, a line a format, and ends with 1 where two readers disagree, or where an
error does not name its file. The same seed damages the same files in the same way.
"""

import argparse
import io
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_ms.data.image_file import image_fault, read_pixels
from keras_ms.data.read_images import (
    crop,
    crop_of,
    image_and_box,
    open_file,
    read_crop,
    read_image,
)

SCALE, RATIO = (0.16, 1.0), (3 / 4, 4 / 3)
# what headers and tables are made of: lengths, counts, depths, the markers of JPEG
_TELLING = bytes((0, 1, 2, 3, 4, 8, 16, 17, 18, 33, 34, 65, 127, 128, 192, 196, 217, 218, 219, 255))


def sound_files():
    """Name of a format → bytes of sound files of it, of 53 × 41 pixels."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
    photo = coarse.resize((53, 41), Image.BICUBIC)
    palette = photo.convert("P")
    grey16 = Image.fromarray(random.integers(0, 2**16, (41, 53), np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6

    def saved(image, kind, **options):
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    inks, film = photo.convert("CMYK"), {"save_all": True, "append_images": [photo.rotate(90)]}
    return {
        "JPEG": [
            saved(photo, "JPEG"),
            saved(photo, "JPEG", quality=95, subsampling=0, optimize=True),
            saved(photo, "JPEG", restart_marker_blocks=2),
            saved(photo, "JPEG", exif=turned),
            saved(photo.convert("L"), "JPEG"),
        ],
        "progressive JPEG": [saved(photo, "JPEG", progressive=True)],
        "CMYK JPEG": [saved(inks, "JPEG"), saved(inks, "JPEG", progressive=True)],
        "PNG": [saved(photo, "PNG"), saved(photo.convert("RGBA"), "PNG", exif=turned)],
        "PNG, 16 bits or palette": [
            saved(grey16, "PNG"), saved(palette, "PNG"), saved(palette, "PNG", transparency=3),
        ],
        "BMP": [saved(photo, "BMP"), saved(palette, "BMP"), saved(photo.convert("1"), "BMP")],
        "GIF": [saved(palette, "GIF"), saved(photo, "GIF", **film)],
        "WebP": [
            saved(photo, "WEBP"), saved(photo, "WEBP", lossless=True, exif=turned),
            saved(photo, "WEBP", **film),
        ],
        "TIFF": [
            saved(photo, "TIFF"), saved(photo, "TIFF", compression="tiff_lzw", exif=turned),
            saved(grey16, "TIFF"), saved(photo.convert("1"), "TIFF", compression="group4"),
            saved(photo, "TIFF", compression="jpeg"),
        ],
    }  # fmt: skip


def damaged(contents, random):
    """The bytes of a file, changed in one place or in up to four."""
    data = bytearray(contents)
    for _ in range(random.choice((1, 1, 2, 4))):
        if len(data) < 8:
            break
        # the header is where formats differ
        end = min(len(data), 700) if random.random() < 0.6 else len(data)
        start = int(random.integers(end))
        stop = min(len(data), start + int(random.integers(1, 40)))
        match int(random.integers(9)):
            case 0:
                data[start] ^= 1 << int(random.integers(8))
            case 1:
                data[start] = int(random.integers(256))
            case 2:
                data[start] = _TELLING[int(random.integers(len(_TELLING)))]
            case 3:
                data[start:stop] = random.bytes(stop - start)
            case 4:
                del data[start:stop]
            case 5:
                data[start:start] = data[start:stop]
            case 6:
                del data[start:]
            case 7:
                data += random.bytes(stop - start)
            case 8:
                data[start:start] = bytes((255, int(random.integers(256))))
    return bytes(data)


def verdict(path, uniform):
    """(whether the file is read, what is wrong with the readers or None)."""
    fault = image_fault(path)
    readers = {
        "read_pixels": lambda: read_pixels(path),
        "read_image": lambda: read_image(path).numpy(),
        "read_crop": lambda: read_crop(path, uniform, SCALE, RATIO).numpy(),
        "image_and_box": lambda: image_and_box(open_file(path), 5)[0].numpy(),
        "crop_of": lambda: crop_of(open_file(path), uniform, SCALE, RATIO, image_size=3).numpy(),
        "read_image, EXIF left": lambda: read_image(path, apply_exif_orientation=False).numpy(),
    }
    found = {}
    for name, read in readers.items():
        try:
            found[name] = read()
        except Exception as error:
            if fault is None:
                return True, f"passed the check, then {name}: {error}"
            if path not in str(error):
                return False, f"{name} does not name the file: {error}"
    if fault is not None:
        return False, f"{sorted(found)} read what is refused: {fault}" if found else None
    pixels = found["read_pixels"]
    if not np.array_equal(pixels, found["read_image"]):
        return True, "read_pixels and read_image see other pixels"
    if sorted(found["read_image, EXIF left"].shape) != sorted(pixels.shape):
        return True, "another size where EXIF is left"
    if found["read_crop"].shape != tuple(crop(pixels, uniform, SCALE, RATIO).shape):
        return True, "read_crop cuts another window"
    return True, None


def fuzz(num_files, seed, folder):
    """Damages `num_files`, the formats in turn: format → (read, refused), and the complaints."""
    random = np.random.default_rng(seed)
    sound = sound_files()
    counts = {name: Counter() for name in sound}
    complaints = []
    for number in range(num_files):
        name = list(sound)[number % len(sound)]
        files = sound[name]
        contents = damaged(files[int(random.integers(len(files)))], random)
        path = os.path.join(folder, f"damaged-{number}.jpg")
        Path(path).write_bytes(contents)
        uniform = tf.constant(random.random(5), tf.float32)
        readable, complaint = verdict(path, uniform)
        counts[name][readable] += 1
        if complaint:
            complaints.append(f"{path}, a {name}: {complaint}")
        else:
            os.unlink(path)
    return {name: (found[True], found[False]) for name, found in counts.items()}, complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow's, about what is damaged
    logging.disable()
    folder = tempfile.mkdtemp()
    counts, complaints = fuzz(args.files, args.seed, folder)
    print(f"{'':26}{'read':>8}{'refused':>10}")
    for name, (read, refused) in counts.items():
        print(f"{name:26}{read:8,}{refused:10,}")
    print(f"{args.files:,} damaged files, {len(complaints)} on which readers disagree")
    print(*complaints[:20], sep="\n")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
