"""Runs a quantised embedder in every runtime of ONNX that is installed, beside its float file.

    keras-ms quantize embedder.onnx --images photos
    python scripts/benchmarks/quantised_runtimes.py embedder.onnx embedder.int8.onnx \\
        --images photos --python other/bin/python --node-modules node/node_modules

Prints the Markdown table of docs/runtimes.md: cosine of the embeddings of 16 photos to those of the
float file in onnxruntime (mean and least), and milliseconds of processor time for one picture with
one thread, of the float and of the quantised file in the same runtime.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from export_parity import RUNTIMES, megabytes, photos_under
from javascript_runtimes import BATCH_SIZES
from PIL import Image


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("float_file", type=Path, help="the .onnx file that was quantised")
    parser.add_argument("quantised", type=Path, nargs="+", help="what became of it")
    parser.add_argument("--images", required=True, help="folder of photos")
    parser.add_argument("--python", default=sys.executable, help="has OpenVINO and OpenCV")
    parser.add_argument("--node-modules", help="folder with onnxruntime-node and -web")
    given = parser.parse_args()
    photos = photos_of(given.images, side_of(given.float_file), max(BATCH_SIZES))
    names = [name for name, (_, file, _) in RUNTIMES.items() if file == "embedder.onnx"]
    plain = {name: found_in(name, given.float_file, photos, given) for name in names}
    if plain["onnxruntime"] is None:
        parser.error("expected onnxruntime, which the others are compared with")
    expected = plain["onnxruntime"].embeddings[-1]
    print(
        "| file | runtime | version | MB | mean cosine, least | ms a picture, of the float file |"
    )
    print("|---|---|---|---|---|---|")
    failed = False
    for file in given.quantised:
        for name in names:
            try:
                found = found_in(name, file, photos, given)
            except Exception as error:  # one broken runtime must not hide the others
                print(f"{name}: {error}", file=sys.stderr)
                print(f"| {file.name} | {name} | failed | – | – | – |", flush=True)
                failed = True
                continue
            if found is None or plain[name] is None:
                print(f"| {file.name} | {name} | not installed | – | – | – |", flush=True)
                continue
            cosines = np.sum(found.embeddings[-1] * expected, axis=1)
            print(
                f"| {file.name} | {name} | {found.version} | {megabytes(file):.1f} "
                f"| {cosines.mean():.4f}, {cosines.min():.4f} "
                f"| {found.milliseconds:.1f}, {plain[name].milliseconds:.1f} |",
                flush=True,
            )
    return int(failed)


def side_of(file):
    """Height and width that the file takes, in pixels."""
    import onnx

    dimensions = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
    return dimensions[1].dim_value


def photos_of(folder, side, count):
    # squashed: every file takes the same pixels
    resized = [
        Image.open(path).convert("RGB").resize((side, side)) for path in photos_under(folder, count)
    ]
    return np.stack([np.asarray(image, "float32") for image in resized])


def found_in(name, file, photos, given):
    """A Measured of the file in a runtime; None where that is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "embedder.onnx").write_bytes(file.read_bytes())
        np.save(folder / "images.npy", photos)
        photos.tofile(folder / "images.bin")
        return RUNTIMES[name][0](folder, photos, given)


if __name__ == "__main__":
    sys.exit(main())
