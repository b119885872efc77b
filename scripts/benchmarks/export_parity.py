"""Compares exported embedders with their Keras models in every runtime that is installed.

    pip install -e ".[onnx]" openvino
    ONNXRUNTIME_NODE_INSTALL=skip npm install --prefix node onnxruntime-node
    python scripts/benchmarks/export_parity.py --images photos --node-modules node/node_modules

Prints the Markdown table of docs/runtimes.md: the largest absolute difference of any value of the
unit-norm embeddings, at batch 1, 3 and 16. About two minutes on two cores. Exits with 1 if a
float32 runtime is more than 1e-5 away or one that is installed fails.

    python scripts/benchmarks/export_parity.py --images photos --pixels 100

compares no model: it prints how far the pixels that the page's Python code makes of 100 photos are
from those that evaluation_batches makes of them.
"""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402

BATCH_SIZES = (1, 3, 16)
TOLERANCE = 1e-5
IMAGE_SIZE = 224  # both networks take it
EMBEDDING_SIZE = 512
PAGE = Path(__file__).resolve().parents[2] / "docs" / "runtimes.md"

NODE_PROGRAM = """
const ort = require('onnxruntime-node');
const fs = require('fs');
const [model, size, folder, ...batches] = process.argv.slice(2);
(async () => {
  const session = await ort.InferenceSession.create(model);
  const pixels = new Float32Array(new Uint8Array(fs.readFileSync(`${folder}/images.bin`)).buffer);
  for (const batch of batches.map(Number)) {
    const values = pixels.slice(0, batch * size * size * 3);
    const image = new ort.Tensor('float32', values, [batch, +size, +size, 3]);
    const { embedding } = await session.run({ image });
    fs.writeFileSync(`${folder}/node${batch}.bin`, Buffer.from(embedding.data.buffer,
      embedding.data.byteOffset, embedding.data.byteLength));
  }
})();
"""

BARE_TENSORFLOW_PROGRAM = """
import sys
sys.modules["keras"] = sys.modules["keras_ms"] = None  # neither can be imported
import numpy as np
import tensorflow as tf
folder, model, *batches = sys.argv[1:]
loaded = tf.saved_model.load(model)
images = np.load(folder + "/images.npy")
for batch in map(int, batches):
    outputs = loaded.signatures["serving_default"](image=tf.constant(images[:batch]))
    np.save(f"{folder}/tensorflow{batch}.npy", outputs["embedding"].numpy())
"""


def in_onnxruntime(folder, images, arguments):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    return [session.run(["embedding"], {"image": images[:n]})[0] for n in BATCH_SIZES]


def in_openvino(folder, images, arguments, options=None):
    import openvino

    model = openvino.Core().compile_model(folder / "model.onnx", "CPU", options or {})
    return [model({"image": images[:n]})["embedding"] for n in BATCH_SIZES]


def in_openvino_float32(folder, images, arguments):
    return in_openvino(folder, images, arguments, {"INFERENCE_PRECISION_HINT": "f32"})


def in_node(folder, images, arguments):
    images.tofile(folder / "images.bin")
    (folder / "run.js").write_text(NODE_PROGRAM)
    command = ["node", "run.js", "model.onnx", str(images.shape[1]), ".", *map(str, BATCH_SIZES)]
    modules = str(Path(arguments.node_modules).resolve())
    subprocess.run(command, cwd=folder, env={**os.environ, "NODE_PATH": modules}, check=True)
    return [np.fromfile(folder / f"node{n}.bin", "float32").reshape(n, -1) for n in BATCH_SIZES]


def in_bare_tensorflow(folder, images, arguments):
    np.save(folder / "images.npy", images)
    command = [sys.executable, "-c", BARE_TENSORFLOW_PROGRAM, ".", "saved_model"]
    subprocess.run([*command, *map(str, BATCH_SIZES)], cwd=folder, check=True)
    return [np.load(folder / f"tensorflow{n}.npy") for n in BATCH_SIZES]


def python_version_of(package):
    def version(arguments):
        if importlib.util.find_spec(package) is None:
            return None
        return importlib.import_module(package).__version__.split("-")[0]

    return version


def node_version(arguments):
    package = Path(arguments.node_modules or "", "onnxruntime-node", "package.json")
    if not arguments.node_modules or not package.exists() or not shutil.which("node"):
        return None
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return f"{json.loads(package.read_text())['version']}, Node.js {node.stdout.strip()}"


# name: (version or None if it is not installed, run, bound by TOLERANCE)
RUNTIMES = {
    "onnxruntime": (python_version_of("onnxruntime"), in_onnxruntime, True),
    "OpenVINO, f32 hint": (python_version_of("openvino"), in_openvino_float32, True),
    "OpenVINO, default": (python_version_of("openvino"), in_openvino, False),
    "onnxruntime-node": (node_version, in_node, True),
    "TensorFlow without Keras (SavedModel)": (
        python_version_of("tensorflow"),
        in_bare_tensorflow,
        True,
    ),
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
    code = re.search(r"<!-- view -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
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
        export_onnx(model, folder / "model.onnx")
        export_saved_model(model, folder / "saved_model")
        for name, (version_of, run, bound) in RUNTIMES.items():
            version = version_of(arguments)
            cells = ["not installed"] + ["–"] * len(BATCH_SIZES)
            if version:
                try:
                    differences = largest_differences(expected, run(folder, images, arguments))
                    kept &= not bound or max(differences) <= TOLERANCE
                    cells = [version, *(f"{d:.1e}" if d else "0" for d in differences)]
                except Exception as error:  # one broken runtime must not hide the others
                    print(f"{name}: {error}", file=sys.stderr)
                    kept, cells[0] = False, f"{version}: failed"
            rows.append(f"| {title} | {name} | " + " | ".join(cells) + " |")
            print(rows[-1], flush=True)
    return rows, kept


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help="folder of images (default: random images)")
    parser.add_argument("--weights", help="Keras weights file of InceptionV3 (default: random)")
    parser.add_argument("--bn-inception-weights", help="the same of BN-Inception")
    parser.add_argument("--node-modules", help="folder in which npm installed onnxruntime-node")
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
    head = "".join(f" batch {n} |" for n in BATCH_SIZES)
    rows = [f"| model | runtime | version |{head}", "|---|---|---|" + "---|" * len(BATCH_SIZES)]
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
