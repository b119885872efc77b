"""Exports of a model that lives on another backend than TensorFlow's: by a process of its own.

The files are TensorFlow's, or made from its graphs, so a process on the TensorFlow backend reads
the saved `.keras` and writes them. What they are compared with comes from here: embeddings by the
model as it was trained.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ms.export.formats import PHOTO_ONNX, export_formats
from keras_ms.export.inference_model import inference_here, inference_model
from keras_ms.export.keras_file import load_keras_file
from keras_ms.export.parity import BATCH_SIZES, ExportMismatchError, check_images
from keras_ms.export.preprocessing import Preprocessing
from keras_ms.export.runner import load_runner
from keras_ms.files import whole_file

_REQUEST, _EXPECTED, _RESULT = "request.json", "expected.npz", "result.json"
# what the process may raise, the most special first; anything else is a bug and keeps its traceback
_ERRORS = (ExportMismatchError, FileNotFoundError, ValueError, ImportError, OSError)
# it removes what it has begun
_SECONDS_TO_END = 5.0
_TOLERANCE = 1e-5


def export_in_a_process(
    model: keras.Model,
    model_file: str | os.PathLike,
    folder: str | os.PathLike,
    formats: Collection[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    log: Callable[[str], Any] = print,
) -> dict[str, dict[str, Any]]:
    """Writes what `export_formats` writes, from any backend.

    Nothing is written unless the saved file, loaded on the TensorFlow backend, gives the embeddings
    of `model` on seeded random images; then each file is compared as `export_formats` does. An
    interruption ends both processes, and no file is left in part.

    Args:
        model: the model in the file, on the backend of this process.
        model_file: the .keras file that it was saved in.
        folder, formats, metadata, preprocessing, log: as in `export_formats`.

    Returns:
        dict from format to {"path": str, "max_difference": float}, the largest difference of the
        file's embeddings from those of `model`.

    Raises:
        ValueError, ImportError, OSError: as the writers of the formats; `ExportMismatchError` also
            where the file gives other embeddings than `model`.
        RuntimeError: the process ended without a result.
    """
    batches, expected = _embeddings(model)
    with tempfile.TemporaryDirectory(prefix="keras_ms_export_") as exchange:
        request = {
            "model_file": str(model_file),
            "folder": str(folder),
            "formats": list(formats),
            "metadata": None if metadata is None else dict(metadata),
            "preprocessing": _to_json(preprocessing),
            "backend": keras.backend.backend(),
        }
        Path(exchange, _REQUEST).write_text(json.dumps(request), encoding="utf-8")
        named: dict[str, Any] = {f"images_{n}": batch for n, batch in enumerate(batches)}
        named |= {f"outputs_{n}": outputs for n, outputs in enumerate(expected)}
        np.savez(Path(exchange, _EXPECTED), **named)
        code = _run(exchange, log)
        try:
            result = json.loads(Path(exchange, _RESULT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RuntimeError(
                f"The process that exports {model_file} ended with code {code} and no result: "
                "what it printed says why. The model is saved; export it with `keras-ms export "
                f"{model_file} --to {folder}`"
            ) from None
    if "error" in result:
        kind, words = result["error"]
        raise next(error for error in _ERRORS if error.__name__ == kind)(words)
    return result["written"]


def _embeddings(model):
    """The images that are compared on, and what the model makes of them in full float32."""
    wrapped = inference_here(model)
    batches = [
        check_images(count, wrapped.check_shape, seed=count).astype(wrapped.input_dtype)
        for count in BATCH_SIZES
    ]
    with _exact_products():
        outputs = [keras.ops.convert_to_numpy(wrapped(batch)) for batch in batches]
    return batches, [np.asarray(output) for output in outputs]


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    # a GPU may round to TensorFloat-32, whose 1e-3 would be laid to the file
    if keras.backend.backend() != "jax":
        yield
        return
    import jax  # pyright: ignore[reportMissingImports]

    with jax.default_matmul_precision("highest"):
        yield


def _run(exchange, log):
    """The exit code of the process, whose lines are logged as they come."""
    package = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "PYTHONIOENCODING": "utf-8",
        # files of the current folder are none of its modules, from Python 3.11 on
        "PYTHONSAFEPATH": "1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        # a GPU belongs to the process that trained
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "keras_ms.export.tensorflow_process", exchange],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        # Ctrl-C is for this process, which then ends the other
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout or ():
                log(line.rstrip("\n"))
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _end(process):
    # the end of its input tells it
    process.stdin.close()
    try:
        process.wait(_SECONDS_TO_END)
    except BaseException as error:
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def _to_json(preprocessing):
    return None if preprocessing is None else dataclasses.asdict(preprocessing)


def _from_json(written):
    if written is None:
        return None
    size = written["image_size"]
    return Preprocessing(**{**written, "image_size": tuple(size) if type(size) is list else size})


def _write(exchange: Path) -> dict[str, Any]:
    """What the request asks for, in the process on the TensorFlow backend."""
    request = json.loads((exchange / _REQUEST).read_text(encoding="utf-8"))
    with np.load(exchange / _EXPECTED) as saved:
        arrays = dict(saved)
    count = len(arrays) // 2
    expected = [(arrays[f"images_{n}"], arrays[f"outputs_{n}"]) for n in range(count)]
    model = load_keras_file(request["model_file"])
    _refuse_if_different(inference_model(model), expected, request)
    written = export_formats(
        model,
        request["folder"],
        request["formats"],
        metadata=request["metadata"],
        preprocessing=_from_json(request["preprocessing"]),
        log=lambda line: print(line, flush=True),
    )
    for kind, export in written.items():
        # one that takes pictures was compared on them
        if kind != PHOTO_ONNX:
            run = load_runner(export["path"], device="/CPU:0").run
            export["max_difference"] = _difference(run, expected)
    return written


def _difference(run, expected):
    gaps = [np.abs(np.asarray(run(images)) - outputs).max() for images, outputs in expected]
    return float(max(gaps))


def _refuse_if_different(wrapped, expected, request):
    difference = _difference(wrapped, expected)
    allowed = _TOLERANCE * max(1.0, *(float(np.abs(outputs).max()) for _, outputs in expected))
    # of NaN too, which compares as False with everything
    if not difference <= allowed:
        raise ExportMismatchError(
            f"{request['model_file']}, loaded on the TensorFlow backend, does not give the "
            f"embeddings of the model on the {request['backend']} backend: the largest difference "
            f"is {difference:.3g}, allowed is {allowed:.3g}. Nothing was exported. Look for a "
            "layer that computes otherwise there, or that does not save all of its state"
        )


def _end_with_parent():
    import _thread

    # not sys.stdin, whose lock would be held as the interpreter ends
    while os.read(0, 1024):
        pass
    # removes what is written in part
    _thread.interrupt_main()
    time.sleep(_SECONDS_TO_END)
    os._exit(1)


def _answer(exchange: Path) -> int:
    """Does what the request asks for and writes the result; the exit code."""
    try:
        result = {"written": _write(exchange)}
    except KeyboardInterrupt:
        return 130
    except _ERRORS as error:
        kind = next(kind for kind in _ERRORS if isinstance(error, kind))
        result = {"error": [kind.__name__, str(error)]}
    with whole_file(exchange / _RESULT) as temporary:
        temporary.write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(_answer(Path(sys.argv[1])))
