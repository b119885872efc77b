"""Measures where the time of a view goes: decoding at each scale, resizing, mirroring.

    python scripts/benchmarks/photo_parts.py FOLDER [--image-size 224]

FOLDER holds JPEGs, in folders too; the first 20 are taken. Processor time of all threads in ms an
image, the median over the rounds. An eighth of the sides leaves one pixel a block of 64: what that
takes is the reading of the coded data, which no smaller scale spares.
"""

import argparse
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from keras_ms.data.images import centre_view
from keras_ms.data.plain_jpeg import plain_jpeg
from keras_ms.data.scaled_jpeg import SCALES, decoded_jpeg, decoded_window


def centred_window(contents, share):
    """The centred window of a share of the picture's sides: top, left, height and width."""
    plain = plain_jpeg(contents)
    if plain is None:
        raise ValueError("Expected plain JPEGs only: baseline, grey or of three colours")
    sides = np.array([plain.height, plain.width])
    window = (sides * share).astype(int)
    return tf.constant([*(sides - window) // 2, *window], tf.int32)


def parts(files, image_size):
    """Functions of the number of a file, by name."""
    # a random crop has 0.58 of the area in the mean, 0.76 of each side
    windows = [centred_window(contents, 0.76) for contents in files]
    tensors = [tf.constant(contents) for contents in files]
    crops = [decoded_window(*pair) for pair in zip(tensors, windows)]
    wholes = [decoded_jpeg(contents) for contents in tensors]
    size = (image_size, image_size)

    def whole(number, n):
        return decoded_jpeg(tensors[n], number)

    found: dict[str, Callable[[int], Any]] = {
        "judged by its structure": lambda n: plain_jpeg(files[n])
    }
    for number, scale in enumerate(SCALES):
        found[f"decoded, whole, at 1/{scale}"] = functools.partial(whole, number)
    found["decoded, a crop of 0.76 of each side"] = lambda n: decoded_window(tensors[n], windows[n])
    found["that crop resized, bilinear"] = lambda n: tf.image.resize(crops[n], size)
    found["that crop mirrored"] = lambda n: tf.reverse(crops[n], [1])
    found["the whole picture's evaluation view"] = lambda n: centre_view(
        wholes[n], image_size, image_size
    )
    return found


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder of JPEGs")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    paths = sorted(args.folder.rglob("*.jpg"))[:20]
    files = [path.read_bytes() for path in paths]
    measured = parts(files, args.image_size)
    times = {name: [] for name in measured}
    for _ in range(args.rounds):
        for name, part in measured.items():
            start = time.process_time()
            for number in range(len(files)):
                part(number)
            times[name].append((time.process_time() - start) / len(files) * 1e3)
    for name, found in times.items():
        print(f"{name:40}{np.median(found[1:]):8.3f} ms")


if __name__ == "__main__":
    main()
