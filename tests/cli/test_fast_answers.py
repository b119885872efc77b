"""Help, the version and refusals come before Keras is imported, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import keras_ms
from keras_ms.cli import evaluate
from keras_ms.evaluation.all_metrics import METRICS

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

# Answers questions, each as a process that was started as the program of this path. They are asked
# of copies of one process, which has imported the packages that all of them begin with.
_ANSWERS = """
import contextlib, io, json, os, runpy, sys, tempfile, traceback

def answer(words):
    sys.argv = words
    try:
        if words[0] == "keras-ms":
            from keras_ms.cli.main import main
            sys.exit(main())
        sys.path.insert(0, words[0].rpartition("/")[0])
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        print("exit code", end.code)
    heavy = {"keras", "tensorflow", "torch", "matplotlib", "scipy"} & set(sys.modules)
    print("heavy:", sorted(heavy))

def answer_of_a_copy(words):
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        copy = os.fork()
        if copy == 0:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            for name in [name for name in sys.modules if name.split(".")[0] == "keras_ms"]:
                del sys.modules[name]
            try:
                answer(words)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(copy, 0)
        file.seek(0)
        return file.read()

questions = json.load(sys.stdin)
with contextlib.redirect_stdout(io.StringIO()):
    answer(["keras-ms", "train", "--help"])
print(json.dumps([answer_of_a_copy(words) for words in questions]))
"""


def answers(*questions):
    """The outputs and errors of questions, each of them words."""
    asked = json.dumps([[*map(str, words)] for words in questions])
    done = subprocess.run(
        [sys.executable, "-c", _ANSWERS], input=asked, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# (words, exit code, one of these texts)
QUESTIONS = [
    (("keras-ms", "--help"), 0, "convert-weights"),
    (("keras-ms",), 2, "keras-ms COMMAND --help has the options of each"),
    (("keras-ms", "--version"), 0, f"keras-ms {keras_ms.__version__}"),
    (("keras-ms", "train", "--help"), 0, "--image-size"),
    (("keras-ms", "train", "--losss", "triplet"), 2, "--losss"),
    (("keras-ms", "train", "--loss", "triplets"), 2, "triplet"),
    (("keras-ms", "train", "--loss", "triplet", "--loss.gap", "1"), 2, "mining"),
    (("keras-ms", "train", "--loss.alpha", "much"), 2, "--loss.alpha"),
    (("keras-ms", "train", "--steps", "7", "--steps-per-epoch", "2"), 1, "multiple of"),
    (("keras-ms", "train", "--backbone", "inceptoin_v3"), 1, "Nearest: inception_v3"),
    (("keras-ms", "train", "--backbone", "none.keras"), 1, "Nothing is at none.keras"),
    (("keras-ms", "train", "--normalisation", "caffe"), 1, "with backbone=small"),
    (("keras-ms", "backbones"), 0, "convnext_tiny"),
    (("keras-ms", "export", "gone.keras", "--to", "x", "--views", "miror"), 1, "mirror, zoom"),
    (("keras-ms", "export", ".", "--to", "x", "--views", "zoom=5"), 1, "up to 1"),
    (("keras-ms", "embed", "--help"), 0, "--shard-size"),
    (("keras-ms", "embed", "gone.onnx", ".", "--to", "x"), 1, "Nothing is at gone.onnx"),
    (("keras-ms", "embed", ".", "gone", "--to", "x"), 1, "Nothing is at gone"),
    (("keras-ms", "embed", ".", ".", "--to", "x", "--dtype", "float64"), 2, "float16"),
    (("keras-ms", "embed", ".", ".", "--to", "x", "--workers", "2"), 1, "--engine ray"),
    (("keras-ms", "evaluate", "--help"), 0, "--split"),
    (("keras-ms", "evaluate", "m.keras", "--metrics", "recal"), 1, "map_at_r"),
    (("keras-ms", "evaluate", "m.keras", "--ks", "0"), 1, "whole numbers"),
    (("keras-ms", "evaluate", ".", "glyphs", "--test-fraction", "2"), 1, "test_fraction"),
    (("keras-ms", "index", "--help"), 0, "--remove"),
    (("keras-ms", "index", "x", "gone"), 1, "Nothing is at gone"),
    (("keras-ms", "index", "x", "--image-size", "8"), 1, "--image-size goes with DATA"),
    (("keras-ms", "search", "--help"), 0, "--duplicates"),
    (("keras-ms", "search", "."), 1, "Give one of QUERY"),
    (("keras-ms", "search", "gone", "q.npy"), 1, "Nothing is at gone"),
    (("keras-ms", "search", ".", ".", "--to", "page.pdf"), 1, "in .html or .csv or .json"),
    (("keras-ms", "search", ".", "--duplicates", "2"), 1, "up to 1"),
    (("keras-ms", "search", ".", "--duplicates", "1", "--top", "3"), 1, "--top is of queries"),
    (("keras-ms", "curriculum", ".", "--class-depth", "0"), 1, "class_depth"),
    (("keras-ms", "curriculum", "--help"), 0, "--subsets"),
    (("keras-ms", "curriculum", "m.keras", "--subsets", "0"), 1, "subsets"),
    (("keras-ms", "curriculum", "gone.onnx"), 1, "Nothing is at gone.onnx"),
    (("keras-ms", "evaluate", "gone.onnx", "."), 1, "Nothing is at gone.onnx"),
    (("keras-ms", "evaluate", ".", "--ks", "1", "--config", "gone.json"), 1, "gone.json"),
    (("keras-ms", "train", "--data-dir", "gone"), 1, "Nothing is at gone"),
    (("keras-ms", "train", "--weights", "gone.weights.h5"), 1, "Nothing is at gone.weights.h5"),
    (("keras-ms", "train", "--resume", "gone"), 1, "Nothing is at gone"),
    (("keras-ms", "report", "none"), 1, "folder of a run"),
    (("keras-ms", "report"), 1, "RUN_FOLDER|folder of a run"),
    (("keras-ms", "card", "none"), 1, "folder of a run"),
    (("keras-ms", "card", "--help"), 0, "--licence"),
    (("keras-ms", "export", "m.keras", "--to", "x", "--formats", "coreml"), 1, "saved_model"),
    (("keras-ms", "export", "gone.keras", "--to", "x"), 1, "Nothing is at gone.keras"),
    (("keras-ms", "export", ".", "--to", "x", "--formats", "photo_onnx"), 1, "needs --resize-to"),
    (("keras-ms", "quantize", "--help"), 0, "--max-loss"),
    (("keras-ms", "quantize", "gone.onnx", "--images", "."), 1, "Nothing is at gone.onnx"),
    (("keras-ms", "quantize", "setup.cfg", "--images", "."), 1, "to end in .onnx"),
    (("keras-ms", "quantize", "m.onnx", "--images", ".", "--max-loss", "-1"), 1, "0 to 100"),
    (("keras-ms", "quantize", "m.onnx", "--images", ".", "--kind", "int4"), 2, "float16"),
    (("keras-ms", "convert-weights", "gone.pth"), 1, "Nothing is at gone.pth"),
    (("keras-ms", "weights", "--losses", "softmax"), 1, "binomial_deviance"),
    (("keras-ms", "convert-weights", ".", "--to", "x.h5"), 1, "in .weights.h5"),
    (("keras-ms", "weights", "--embeddings", "gone.npz"), 1, "Nothing is at gone.npz"),
    (("keras-ms", "weights", "--to", "x.bmp"), 1, "in .png or .svg or .pdf"),
    (("keras-ms", "weights", "--table", "x.html"), 1, "--table to end in .md"),
    (("keras-ms", "weights", "--table", "docs"), 1, "Received a folder: docs"),
    (("keras-ms", "export", ".", "--to", "x", "--formats", ""), 1, "--formats is empty"),
    ((SCRIPTS / "train.py", "--help"), 0, "--image-size"),
    ((SCRIPTS / "recipes" / "omniglot.py", "--help"), 0, "hierarchical_triplet"),
    ((SCRIPTS / "recipes" / "omniglot.py", "hdml", "--help"), 0, "--image-size"),
    ((SCRIPTS / "recipes" / "omniglot.py", "hdlm", "--seed", "1"), 2, "'hdml'?"),
    ((SCRIPTS / "recipes" / "official.py", "--seed", "1"), 2, "in_shop"),
]


@pytest.fixture(scope="module")
def answered():
    asked = [words for words, _, _ in QUESTIONS]
    return dict(zip(asked, answers(*asked), strict=True))


@pytest.mark.parametrize(
    "words, code, text",
    QUESTIONS,
    ids=lambda value: (
        " ".join(Path(word).name for word in value) if isinstance(value, tuple) else None
    ),
)
def test_answers_import_no_keras(answered, words, code, text):
    printed = answered[words]
    assert f"exit code {code}\n" in printed
    assert any(part in printed for part in text.split("|"))
    assert "heavy: []" in printed


def test_in_a_command_the_public_names_are_there_once_asked_for():
    code = (
        "import sys; sys.argv[0] = 'keras-ms'; import keras_ms; assert 'keras' not in sys.modules; "
        "print(keras_ms.MultiSimilarityLoss, keras_ms.ImageList, keras_ms.recall_at_k)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert "MultiSimilarityLoss" in done.stdout, done.stderr


def test_the_metrics_of_the_command_are_those_of_the_library():
    assert set(evaluate.METRICS) == set(METRICS)
