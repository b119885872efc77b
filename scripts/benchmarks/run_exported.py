"""Runs an exported embedder in one runtime, in any Python that has it and NumPy.

    python run_exported.py openvino FOLDER 1 3 16

FOLDER holds images.npy and the exports. Writes FOLDER/openvino-1.npy and so on, the embeddings of
the first 1, 3 and 16 images, and prints a line of JSON: the version of the runtime and milliseconds
of processor time for one image, with one thread: the time of the work, however busy the machine.
Ends with 3 where the runtime is not installed. Nothing of keras_ms is imported.
"""

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 9
NOT_INSTALLED = 3

Run = Callable[[np.ndarray], Any]


def onnxruntime(folder: Path) -> tuple[str, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        folder / "embedder.onnx", options, providers=["CPUExecutionProvider"]
    )
    return onnxruntime.__version__, lambda images: session.run(["embedding"], {"image": images})[0]


def openvino(folder: Path, **options: str) -> tuple[str, Run]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": "1"} | options
    model = openvino.Core().compile_model(folder / "embedder.onnx", "CPU", options)
    return openvino.__version__, lambda images: model({"image": images})["embedding"]


def openvino_float32(folder: Path) -> tuple[str, Run]:
    return openvino(folder, INFERENCE_PRECISION_HINT="f32")


def opencv(folder: Path) -> tuple[str, Run]:
    import cv2

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(str(folder / "embedder.onnx"))

    def run(images):
        net.setInput(images, "image")
        return net.forward("embedding")

    return cv2.__version__, run


def litert(folder: Path) -> tuple[str, Run]:
    from importlib.metadata import version

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "embedder.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images):
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(taken["index"], images.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(taken["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])

    return version("ai-edge-litert"), run


def tensorflow(folder: Path) -> tuple[str, Run]:
    modules: dict[str, Any] = sys.modules
    modules["keras"] = modules["keras_ms"] = None  # neither can be imported
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    loaded = tf.saved_model.load(str(folder / "saved_model"))

    def run(images):
        return loaded.signatures["serving_default"](image=tf.constant(images))["embedding"].numpy()

    return tf.__version__, run


RUNTIMES = {
    "onnxruntime": ("onnxruntime", onnxruntime),
    "openvino_float32": ("openvino", openvino_float32),
    "openvino": ("openvino", openvino),
    "opencv": ("cv2", opencv),
    "litert": ("ai_edge_litert", litert),
    "tensorflow": ("tensorflow", tensorflow),
}


def main() -> int:
    name, folder, batches = sys.argv[1], Path(sys.argv[2]), [int(n) for n in sys.argv[3:]]
    package, load = RUNTIMES[name]
    if importlib.util.find_spec(package) is None:
        return NOT_INSTALLED
    images = np.load(folder / "images.npy")
    version, run = load(folder)
    for batch in batches:
        np.save(folder / f"{name}-{batch}.npy", run(images[:batch]))
    run(images[:1])
    milliseconds = statistics.median(_seconds(run, images[:1])) * 1000
    print(json.dumps({"version": version.split("-")[0], "milliseconds": milliseconds}))
    return 0


def _seconds(run, images):
    for _ in range(REPEATS):
        started = time.process_time()
        run(images)
        yield time.process_time() - started


if __name__ == "__main__":
    sys.exit(main())
