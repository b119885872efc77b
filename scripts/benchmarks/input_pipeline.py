"""Measures the input pipeline: images per second, and the time to the first batch.

    python scripts/benchmarks/input_pipeline.py [folder of class folders] --peer-python PYTHON
    python scripts/benchmarks/input_pipeline.py [folder of class folders] --photos

Without a folder, 500x375 JPEGs (the usual size of CUB-200-2011 and ImageNet pictures) are made of
gradients and noise in a temporary folder. All variants run in one process, in turns, so that
whatever else the machine does falls on all alike; the table gives medians over the rounds. On a
busy machine look at the processor time per image (all threads), which other work hardly moves.

With --photos the pictures that are made have 4000x3000 pixels; views of JPEGs that are decoded
smaller are compared with those of whole ones, in pixels and in speed.

PYTHON is an interpreter that has torch: its DataLoader with two worker processes then takes turns
too, on the same files, decoded and resized by Pillow as torchvision does (crop, then bilinear
resize, which Pillow always antialiases), then float32 channels first.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from answering_process import AnsweringProcess
from PIL import Image
from record import add_record_option, record

from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import (
    NUM_UNIFORM,
    centre_view,
    default_resize_to,
    evaluation_batches,
    file_centre_view,
    flip_and_resize,
)
from keras_ms.data.read_images import crop_of, image_of, open_file, opened

SCALE, RATIO = (0.16, 1.0), (3 / 4, 4 / 3)


def write_pictures(folder, num_classes=20, per_class=20):
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:375, 0:500]
    for label in range(num_classes):
        (folder / f"{label:03}").mkdir()
        for number in range(per_class):
            slopes = random.uniform(-0.5, 0.5, (2, 3))
            pixels = 128 + rows[..., None] * slopes[0] + columns[..., None] * slopes[1]
            pixels += random.normal(0, 12, pixels.shape)
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(folder / f"{label:03}" / f"{number:03}.jpg", quality=90)


def write_photos(folder, num_classes=4, per_class=5):
    """JPEGs of 4000 x 3000 and about 2 MB, with detail at every size as photos have it."""
    random = np.random.default_rng(0)
    for label in range(num_classes):
        (folder / f"{label:03}").mkdir()
        for number in range(per_class):
            pixels = np.full((3000, 4000, 3), 128.0, np.float32)
            for size in 2 ** np.arange(10):
                detail = random.normal(0, 1.5 * np.sqrt(size), (3000 // size, 4000 // size))
                plane = Image.fromarray(detail.astype(np.float32)).resize((4000, 3000))
                pixels += np.asarray(plane)[..., None] * random.uniform(0.8, 1.2, 3)
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(folder / f"{label:03}" / f"{number:03}.jpg", quality=90)


def decode_only(images):
    """The bare loop that everything is compared with: read, decode, next."""
    dataset = tf.data.Dataset.from_tensor_slices(images.paths)
    return dataset.map(
        lambda path: tf.shape(tf.io.decode_jpeg(tf.io.read_file(path), channels=3)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def crop_only(images):
    """Our read, check, random window and decode of that window, not resized."""
    numbers = np.random.default_rng(0).random((len(images), NUM_UNIFORM), dtype=np.float32)
    dataset = opened(tf.data.Dataset.from_tensor_slices((images.paths, numbers)))
    return dataset.map(
        lambda file, uniform: tf.shape(crop_of(file, uniform, SCALE, RATIO)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def training_views(images, view, batch):
    """Batches of `view` of each file and its random numbers, by the steps of our own pipeline."""
    numbers = np.random.default_rng(0).random((len(images), NUM_UNIFORM), dtype=np.float32)
    dataset = opened(tf.data.Dataset.from_tensor_slices((images.paths, numbers)).repeat())
    dataset = dataset.map(view, num_parallel_calls=tf.data.AUTOTUNE).batch(batch)
    return dataset.map(lambda views: (views, 0)).prefetch(tf.data.AUTOTUNE)


def antialiased(images, image_size, batch):
    """Our training view, but resized as Pillow does, antialiased."""

    def view(file, uniform):
        image = crop_of(file, uniform, SCALE, RATIO, image_size=image_size)
        image = tf.cond(uniform[4] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
        return tf.image.resize(image, (image_size, image_size), antialias=True)

    return training_views(images, view, batch)


def whole_crops(images, image_size, batch):
    """Our training view of crops that are decoded at the picture's own size."""

    def view(file, uniform):
        image = crop_of(file, uniform, SCALE, RATIO)
        return flip_and_resize(image, uniform, image_size, True)

    return training_views(images, view, batch)


def whole_centres(images, image_size, batch):
    """Our evaluation view of pictures that are decoded at their own size."""
    dataset = opened(tf.data.Dataset.from_tensor_slices((images.paths,)).repeat())
    dataset = dataset.map(
        lambda file: centre_view(image_of(file), image_size, image_size),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return dataset.batch(batch).map(lambda views: (tf.cast(views, tf.float32), 0)).prefetch(2)


class PyTorchLoader:
    """A process that answers a number of images by the seconds that each took."""

    def __init__(self, python, images, image_size):
        loader = Path(__file__).with_name("torch_input_pipeline.py")
        self._process = AnsweringProcess([python, str(loader), str(image_size)])
        self._process.send(json.dumps([os.fspath(path) for path in images.paths.tolist()]))

    def seconds_per_image(self, num_images):
        self._process.send(str(num_images))
        return np.array(json.loads(self._process.answer()))

    def close(self):
        self._process.close()


def seconds_per_image(dataset, num_images):
    """(wall, processor) time for `num_images` after the first batch, which starts threads."""
    batches = iter(dataset)
    next(batches)
    seen, start = 0, np.array([time.perf_counter(), time.process_time()])
    while seen < num_images:
        seen += len(next(batches)[0])
    return (np.array([time.perf_counter(), time.process_time()]) - start) / seen


def measure(images, image_size, rounds, num_images, are_photos, peer_python):
    classes = min(4 if are_photos else 16, len(np.unique(images.labels)))
    batch = 5 * classes

    def batched(dataset):
        return dataset.repeat().batch(batch).map(lambda shapes: (shapes, 0)).prefetch(2)

    common = {"classes_per_batch": classes, "image_size": image_size}
    variants = {
        "bare tf.data decode loop": batched(decode_only(images)),
        "decode and crop, not resized": batched(crop_only(images)),
        f"full pipeline, {image_size} px": balanced_batches(images, cache=False, **common),
        f"the same, antialiased, {image_size} px": antialiased(images, image_size, batch),
        f"evaluation, {image_size} px": evaluation_batches(
            images, image_size, resize_to=image_size, batch_size=batch, cache=False
        ).repeat(),
    }
    if are_photos:
        variants |= {
            "full pipeline, not decoded smaller": whole_crops(images, image_size, batch),
            "evaluation, not decoded smaller": whole_centres(images, image_size, batch),
        }
    else:
        variants[f"full pipeline, {image_size} px, cached"] = balanced_batches(
            images, cache=True, **common
        )
    turns: dict[str, Callable] = {
        name: functools.partial(seconds_per_image, dataset) for name, dataset in variants.items()
    }
    if peer_python:
        peer = PyTorchLoader(peer_python, images, image_size)
        turns["PyTorch DataLoader with Pillow"] = peer.seconds_per_image
    times = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            times[name].append(turn(num_images))
    if peer_python:
        peer.close()
    bare, rows = next(iter(times.values())), {}
    print(f"{'':36}{'images/s':>10}{'of bare':>10}{'CPU ms/image':>14}{'of bare':>10}")
    for name, measured in times.items():
        # the ratio of turns next to each other, not of two medians
        wall, processor = np.median(np.divide(bare, measured), axis=0)
        seconds, busy = np.median(measured, axis=0)
        print(f"{name:36}{1 / seconds:10.0f}{wall:10.2f}{busy * 1e3:14.2f}{processor:10.2f}")
        rows[name] = {
            "images/s": round(float(1 / seconds)),
            "of bare": round(float(wall), 2),
            "CPU ms/image": round(float(busy * 1e3), 2),
            "of bare, by CPU time": round(float(processor), 2),
        }
    return rows


def measure_differences(images, image_size, num_images=20):
    """How far views of JPEGs that are decoded smaller are from those of the whole pictures."""
    gaps = {name: [] for name in ("evaluation", "training", "training, whole, bilinear")}
    numbers = np.random.default_rng(0).random((num_images, NUM_UNIFORM), dtype=np.float32)
    resize_to = default_resize_to(images, image_size)
    for path, uniform in zip(images.paths[:num_images], numbers):
        file = open_file(path)
        whole = centre_view(image_of(file), image_size, resize_to)
        found = file_centre_view(file, image_size, resize_to)
        gaps["evaluation"].append(tf.cast(found, tf.float32) - tf.cast(whole, tf.float32))
        size = (image_size, image_size)
        whole = crop_of(file, uniform, SCALE, RATIO)
        small = crop_of(file, uniform, SCALE, RATIO, image_size=image_size)
        best = tf.image.resize(whole, size, antialias=True)
        gaps["training"].append(tf.image.resize(small, size) - best)
        gaps["training, whole, bilinear"].append(tf.image.resize(whole, size) - best)
    print("differences, of 255, from whole pictures that are resized antialiased")
    for name, found in gaps.items():
        found = np.abs(found)
        print(f"{name:36}mean {found.mean():5.2f}   99 % below {np.percentile(found, 99):5.1f}")


def measure_first_batch(num_classes=11_318, num_indices=60_000):
    """Stanford Online Products has 11,318 training classes of about 5 images."""
    random = np.random.default_rng(0)
    extra = random.integers(0, num_classes, num_indices - 2 * num_classes)
    labels = np.concatenate([np.repeat(np.arange(num_classes), 2), extra])
    labels = random.permutation(labels)
    for start_step in (0, 100_000):
        start = time.perf_counter()
        next(iter(balanced_batches(labels, start_step=start_step)))
        seconds = time.perf_counter() - start
        print(
            f"first batch of {num_classes:,} classes x {num_indices:,} indices"
            f" from step {start_step:,}: {seconds:.2f} s"
        )


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", help="a folder of class folders of JPEGs")
    parser.add_argument("--photos", action="store_true", help="files of 4000x3000, some minutes")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images-per-round", type=int, default=800)
    parser.add_argument("--peer-python", help="an interpreter that has torch")
    add_record_option(parser)
    args = parser.parse_args()
    measure_first_batch()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if not args.folder:
            (write_photos if args.photos else write_pictures)(folder)
        images = ImageList.from_folder(folder, test_fraction=0)
        width, height = Image.open(images.paths[0]).size
        print(f"{len(images)} files, the first {width}x{height}; {os.cpu_count()} cores")
        if args.photos:
            measure_differences(images, args.image_size)
        rows = measure(
            images,
            args.image_size,
            args.rounds,
            args.images_per_round,
            args.photos,
            args.peer_python,
        )
        if args.record:
            name = "input-pipeline-photos" if args.photos else "input-pipeline"
            record(
                f"{name}-pytorch" if args.peer_python else name,
                rows,
                sizes=f"{len(images)} JPEG files of {width} × {height}",
                threads=os.cpu_count() or 1,
                rounds=args.rounds,
                ratios=["of bare", "of bare, by CPU time"],
            )


if __name__ == "__main__":
    main()
