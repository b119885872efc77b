"""Compares exported embedders with their Keras models in every runtime that is installed.

    pip install -e ".[onnx]"
    python -m venv other && other/bin/pip install openvino opencv-python-headless ai-edge-litert
    ONNXRUNTIME_NODE_INSTALL=skip npm install --prefix node onnxruntime-node onnxruntime-web
    python scripts/benchmarks/export_parity.py --images photos --python other/bin/python \\
        --node-modules node/node_modules

Prints the Markdown table of docs/runtimes.md: size of the file, the largest absolute difference of
any value of the unit-norm embeddings at batch 1, 3 and 16, and milliseconds of processor time for
one picture with one thread. Exits with 1 if a float32 runtime is more than 1e-5 away or one that is
installed fails.

    python scripts/benchmarks/export_parity.py --images photos --pixels 100

compares no model: it prints how far the pixels that the page's Python code makes of 100 photos are
from those that evaluation_batches makes of them.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
from javascript_runtimes import BATCH_SIZES, in_node, in_web, measured  # noqa: E402
from run_exported import NOT_INSTALLED  # noqa: E402

TOLERANCE = 1e-5
IMAGE_SIZE = 224  # both networks take it
EMBEDDING_SIZE = 512
RUN_EXPORTED = Path(__file__).with_name("run_exported.py")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "runtimes.md"


def in_python(name):
    """A function that runs the embedder in a runtime of Python, in a process of its own."""

    def run(folder, images, arguments):
        # what is imported here, TensorFlow and Keras, stays in the Python of this process
        python = sys.executable if name in ("onnxruntime", "tensorflow") else arguments.python
        command = [python, RUN_EXPORTED, name, folder, *BATCH_SIZES]
        done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True)
        if done.returncode == NOT_INSTALLED:
            return None
        done.check_returncode()
        return measured(done.stdout, [np.load(folder / f"{name}-{n}.npy") for n in BATCH_SIZES])

    return run


# name: (run, which gives a Measured, or None if it is not installed; its file; bound by TOLERANCE)
RUNTIMES = {
    "onnxruntime": (in_python("onnxruntime"), "embedder.onnx", True),
    "OpenVINO, f32 hint": (in_python("openvino_float32"), "embedder.onnx", True),
    "OpenVINO, default": (in_python("openvino"), "embedder.onnx", False),
    "OpenCV dnn": (in_python("opencv"), "embedder.onnx", True),
    "onnxruntime-node": (in_node, "embedder.onnx", True),
    "onnxruntime-web": (in_web, "embedder.onnx", True),
    "TensorFlow without Keras": (in_python("tensorflow"), "saved_model", True),
    "LiteRT": (in_python("litert"), "embedder.tflite", True),
}


def load_images(folder, count):
    """The first `count` images under `folder`, spread over it; random ones without a folder."""
    from keras_ms.export.parity import check_images

    if folder is None:
        return check_images(count, (IMAGE_SIZE, IMAGE_SIZE, 3), seed=0)
    from PIL import Image

    # squashed: not how an embedder is fed, but every runtime takes the same pixels
    resized = [
        Image.open(path).convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE))
        for path in photos_under(folder, count)
    ]
    return np.stack([np.asarray(image, "float32") for image in resized])


def photos_under(folder, count):
    """Paths of `count` images, spread over a folder."""
    endings = {".jpg", ".jpeg", ".png"}
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in endings)
    if len(paths) < count:
        raise SystemExit(f"Expected at least {count} images under {folder}. Found: {len(paths)}.")
    return [paths[i * len(paths) // count] for i in range(count)]


def compare_pixels(folder, count, image_size=160):
    """Prints how far the page's view of photos is from that of evaluation_batches."""
    from keras_ms import ImageList
    from keras_ms.data.images import default_resize_to, evaluation_batches

    paths = photos_under(folder, count)
    names = np.array([str(path) for path in paths])
    images = ImageList(names, np.zeros(count, np.int64), ("a",), np.array(["test"] * count))
    resize_to = default_resize_to(images, image_size)
    rule = {
        "exif_orientation": True,
        "shorter_side": resize_to,
        "height": image_size,
        "width": image_size,
        "dtype": "float32",
    }
    code = re.search(
        r"<!-- view -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    if code is None:
        raise ValueError(f"Expected the code of a view in {PAGE}, after <!-- view -->")
    page = {}
    exec(code[1], page)
    differences = []
    for (ours, _), path in zip(evaluation_batches(images, image_size, batch_size=1), paths):
        differences.append(np.abs(ours[0].numpy() - page["view"](path, rule)))
    differences = np.stack(differences)
    print(
        f"{count} photos of {Path(folder).name}, shorter side {resize_to}, centre {image_size}: "
        f"mean difference {differences.mean():.3f}, largest {differences.max():.0f} of 255, "
        f"{(differences > 0).mean():.1%} of the values differ"
    )


def largest_differences(expected, received):
    for want, got in zip(expected, received):
        if want.shape != got.shape:
            raise ValueError(f"Expected outputs of shape {want.shape}. Received: {got.shape}")
    return [float(np.abs(want - got).max()) for want, got in zip(expected, received)]


def compare_one(title, model, images, arguments):
    """Markdown rows of one model, and whether every runtime kept its bound."""
    from keras_ms import export_onnx, export_saved_model

    expected = [np.asarray(model(images[:n], training=False)) for n in BATCH_SIZES]
    rows, kept = [], True
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        export_onnx(model, folder / "embedder.onnx")
        export_saved_model(model, folder / "saved_model")
        model.export(folder / "embedder.tflite", format="litert", verbose=False)
        np.save(folder / "images.npy", images)
        images.tofile(folder / "images.bin")
        for name, (run, file, bound) in RUNTIMES.items():
            if arguments.runtimes and name not in arguments.runtimes:
                continue
            cells = ["not installed"] + ["–"] * (2 + len(BATCH_SIZES))
            try:
                found = run(folder, images, arguments)
                if found is not None:
                    differences = largest_differences(expected, found.embeddings)
                    kept &= not bound or max(differences) <= TOLERANCE
                    cells = [found.version, f"{megabytes(folder / file):.1f}"]
                    cells += [f"{d:.1e}" if d else "0" for d in differences]
                    cells.append(f"{found.milliseconds:.0f}")
            except Exception as error:  # one broken runtime must not hide the others
                print(f"{name}: {error}", file=sys.stderr)
                kept, cells[0] = False, "failed"
            rows.append(f"| {title} | {name} | " + " | ".join(cells) + " |")
            print(rows[-1], flush=True)
    return rows, kept


def megabytes(path):
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help="folder of images (default: random images)")
    parser.add_argument("--weights", help="Keras weights file of InceptionV3 (default: random)")
    parser.add_argument("--bn-inception-weights", help="the same of BN-Inception")
    parser.add_argument(
        "--node-modules", help="folder in which npm installed onnxruntime-node and onnxruntime-web"
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="the Python that has OpenVINO, OpenCV and LiteRT (default: this one)",
    )
    parser.add_argument(
        "--runtimes", nargs="+", choices=RUNTIMES, metavar="NAME", help="(default: all)"
    )
    parser.add_argument(
        "--pixels",
        type=int,
        metavar="N",
        help="compare the pixels of N photos of --images, and no model",
    )
    parser.add_argument("--output", help="file to write the table to as well")
    arguments = parser.parse_args()
    if arguments.pixels:
        if arguments.images is None:
            parser.error("--pixels needs --images, the folder of the photos")
        compare_pixels(arguments.images, arguments.pixels)
        return 0

    import keras
    import onnx
    import tensorflow as tf
    import tf2onnx

    from keras_ms import build_embedder
    from keras_ms.files import whole_file

    images = load_images(arguments.images, max(BATCH_SIZES))
    head = ["model", "runtime", "version", "MB", *(f"batch {n}" for n in BATCH_SIZES)]
    head.append("ms a picture")
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    print("\n".join(rows))
    all_kept = True
    for title, backbone, output_layer, weights in (
        ("InceptionV3 to mixed8", "inception_v3", "mixed8", arguments.weights),
        ("BN-Inception", "bn_inception", None, arguments.bn_inception_weights),
    ):
        model = build_embedder(
            backbone,
            output_layer=output_layer,
            weights=weights,
            image_size=IMAGE_SIZE,
            embedding_size=EMBEDDING_SIZE,
            seed=0,
        )
        title += "" if weights else ", random weights"
        new, kept = compare_one(title, model, images, arguments)
        rows, all_kept = rows + new, all_kept and kept
    rows += [
        "",
        f"Written with TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"tf2onnx {tf2onnx.__version__}, onnx {onnx.__version__}, "
        f"Python {platform.python_version()}, on {platform.machine()}; "
        f"{'images from a folder' if arguments.images else 'random images'}.",
    ]
    print("\n".join(rows[-2:]))
    if arguments.output:
        with whole_file(arguments.output) as new_file:
            new_file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
