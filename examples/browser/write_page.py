"""Writes a folder whose index.html finds similar pictures, opened from a disk and without a server.

    npm install onnxruntime-web
    python examples/browser/write_page.py embedder.onnx photos --to page

The folder holds all that the page needs: the embedder, embeddings and small pictures of the photos,
onnxruntime-web, and the three files beside this one. It may be moved, sent, and served as it is.
"""

import argparse
import base64
import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from keras_ms import ImageList
from keras_ms.export.embedder import embed_images, load_embedder
from keras_ms.export.runner import load_runner
from keras_ms.files import whole_folder

HERE = Path(__file__).resolve().parent
PAGE = ("index.html", "search.js", "view.js")
RUNTIME = ("ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
THUMBNAIL = 240  # pixels of the longer side


def write_page(
    model: str | Path, photos: str | Path, folder: str | Path, *, node_modules: str | Path
) -> int:
    """Writes the folder of the page, whole or not at all.

    Args:
        model: .onnx file that says how photos become its input.
        photos: folder of the gallery; pictures in its subfolders belong to it.
        folder: to write. A folder that is there already is refused.
        node_modules: where npm installed onnxruntime-web.

    Returns:
        Number of pictures in the gallery.

    Raises:
        FileNotFoundError: no pictures, no model or no onnxruntime-web.
        FileExistsError: `folder` is there.
        ValueError: a model file that does not say how photos are resized.
    """
    model, photos, folder = Path(model), Path(photos), Path(folder)
    runtime = Path(node_modules) / "onnxruntime-web" / "dist"
    if not (runtime / RUNTIME[1]).is_file():
        raise FileNotFoundError(
            f"Expected onnxruntime-web in {node_modules}: npm install onnxruntime-web"
        )
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in ENDINGS)
    if not paths:
        raise FileNotFoundError(f"Expected pictures under {photos}. There are none")
    embedder = load_embedder(model)
    rule = json.loads(load_runner(model).facts.get("preprocessing_rule", "{}"))
    if "shorter_side" not in rule:
        raise ValueError(
            f"Expected {model} to say how photos are resized, and not to do it itself: export it "
            "with preprocessing=keras_ms.Preprocessing(…), or with keras-ms export --resize-to"
        )
    rule = {"exif_orientation": False} | rule
    names = np.array([str(path) for path in paths])
    labels, split = np.zeros(len(paths), np.int64), np.full(len(paths), "test")
    images = ImageList(names, labels, ("any",), split)
    embeddings = embed_images(embedder, images).astype("<f4")
    with whole_folder(folder, replace=False) as new:
        for name in PAGE:
            shutil.copy(HERE / name, new)
        shutil.copy(runtime / "ort.wasm.min.js", new)
        glue, binary = ((runtime / name).read_bytes() for name in RUNTIME)
        _write_script(new / "runtime.js", "RUNTIME", mjs=_text(glue), wasm=_text(binary))
        own = {"onnx": _text(model.read_bytes()), "rule": rule}
        _write_script(new / "embedder.js", "EMBEDDER", fingerprint=embedder.fingerprint, **own)
        _write_script(
            new / "gallery.js",
            "GALLERY",
            fingerprint=embedder.fingerprint,
            names=[path.relative_to(photos).as_posix() for path in paths],
            embeddings=_text(embeddings.tobytes()),
            thumbnails=_thumbnails(paths, rule["exif_orientation"]),
        )
    return len(paths)


def _write_script(path, name, **values):
    path.write_text(f"const {name} = {json.dumps(values)};\n", encoding="utf-8")


def _text(content):
    return base64.b64encode(content).decode()


def _thumbnails(paths: Sequence[Path], turned: bool) -> list[str]:
    """Small pictures, as addresses that hold them."""
    addresses = []
    for path in paths:
        with Image.open(path) as opened:
            photo: Any = ImageOps.exif_transpose(opened) if turned else opened
            photo = photo.convert("RGB")
        photo.thumbnail((THUMBNAIL, THUMBNAIL))
        written = io.BytesIO()
        photo.save(written, "JPEG", quality=80)
        addresses.append(f"data:image/jpeg;base64,{_text(written.getvalue())}")
    return addresses


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="ONNX file of an embedder")
    parser.add_argument("photos", help="folder of the gallery")
    parser.add_argument("--to", required=True, help="folder to write")
    parser.add_argument("--node-modules", default="node_modules", help="(default: %(default)s)")
    options = parser.parse_args()
    try:
        count = write_page(
            options.model, options.photos, options.to, node_modules=options.node_modules
        )
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in Path(options.to).iterdir())
    print(f"Open {Path(options.to) / 'index.html'} ({count:,} pictures, {size / 1e6:.0f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
