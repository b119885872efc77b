"""The configurations of docs/serving.md parse and name what exported files have."""

import ast
import base64
import contextlib
import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ms.export import Preprocessing, export_onnx, export_saved_model

onnxruntime = pytest.importorskip("onnxruntime", reason='needs pip install -e ".[onnx]"')
PAGES = Path(__file__).resolve().parents[2] / "docs"
INSTALL = "needs pip install --no-deps tritonclient tensorflow-serving-api kserve"


def code_of(name, page="serving.md"):
    text = (PAGES / page).read_text(encoding="utf-8")
    (code,) = re.findall(rf"<!-- {name} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    return code


def installed(package):
    """The folder of a package, which is not imported: its dependencies are not there."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(INSTALL)
    return Path(next(iter(spec.submodule_search_locations)))


def schema(package, file):
    path = installed(package) / file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(text, message):
    from google.protobuf import text_format

    return text_format.Parse(text, message)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder with exports of the sizes that the page has."""
    folder = tmp_path_factory.mktemp("exports")
    keras.utils.set_random_seed(0)
    image = keras.Input((160, 160, 3), name="image")
    x = keras.layers.AveragePooling2D(32)(keras.layers.Rescaling(1 / 127.5, -1.0)(image))
    x = keras.layers.Dense(512)(keras.layers.Flatten()(x))
    model = keras.Model(image, keras.layers.UnitNormalization(axis=1)(x))
    rule = Preprocessing(160, 180)
    export_onnx(model, folder / "embedder.onnx", preprocessing=rule)
    export_saved_model(model, folder / "saved_model", preprocessing=rule)
    coarse = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), np.uint8)
    for name, pixels in zip("ab", coarse):
        Image.fromarray(pixels).resize((300, 200)).save(folder / f"{name}.png")
    return folder


def triton_tensor(value):
    """(name, type, shape) of an ONNX input or output as Triton writes them, without the batch."""
    assert value.type == "tensor(float)" and isinstance(value.shape[0], str)
    return value.name, "TYPE_FP32", value.shape[1:]


def test_the_configuration_of_triton_has_the_tensors_of_an_onnx_file(exports):
    model_config = schema("tritonclient", "grpc/model_config_pb2.py")
    config = parsed(code_of("triton"), model_config.ModelConfig())
    session = onnxruntime.InferenceSession(exports / "embedder.onnx")
    for tensors, values in ((config.input, session.get_inputs()),
                            (config.output, session.get_outputs())):  # fmt: skip
        named = [(t.name, model_config.DataType.Name(t.data_type), list(t.dims)) for t in tensors]
        assert named == [triton_tensor(value) for value in values]
    # the batch is open in the file, and not among the sizes once there is a largest one
    assert config.max_batch_size > 0 and config.backend == "onnxruntime"
    assert config.HasField("dynamic_batching")


def test_the_page_prints_that_configuration(exports):
    done = subprocess.run(
        [sys.executable, "-c", code_of("triton-sizes")], cwd=exports, capture_output=True, text=True
    )
    assert done.stdout == code_of("triton"), done.stderr


def test_the_configuration_of_tensorflow_serving_names_the_models_folder():
    pytest.importorskip("tensorflow_serving", reason=INSTALL)
    from tensorflow_serving.config import model_server_config_pb2

    config = parsed(code_of("tensorflow-serving"), model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.model_platform) == ("embedder", "tensorflow")
    text = (PAGES / "serving.md").read_text(encoding="utf-8")
    assert f"/v1/models/{model.name}:predict" in text and f"{model.base_path[1:]}/1" in text


def test_the_savedmodel_has_the_signature_of_the_request(exports):
    from tensorflow.core.protobuf import saved_model_pb2

    content = (exports / "saved_model" / "saved_model.pb").read_bytes()
    (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    assert list(graph.meta_info_def.tags) == ["serve"]  # what the server loads
    signature = graph.signature_def["serving_default"]
    shapes = {
        name: [size.size for size in tensor.tensor_shape.dim]
        for name, tensor in (*signature.inputs.items(), *signature.outputs.items())
    }
    assert shapes == {"image": [-1, 160, 160, 3], "embedding": [-1, 512]}
    assert signature.method_name == "tensorflow/serving/predict"


def kserve_fields(kind):
    """The fields in YAML of one of KServe's classes, read and not imported."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
    source = (installed("kserve") / "models" / f"{name}.py").read_text(encoding="utf-8")
    (fields,) = re.findall(r"attribute_map = (\{.*?\})", source, re.DOTALL)
    return set(ast.literal_eval(fields).values())


def test_the_resource_of_kserve_has_fields_that_there_are():
    yaml = pytest.importorskip("yaml", reason='needs pip install -e ".[card]"')
    resource = yaml.safe_load(code_of("kserve"))
    assert resource["apiVersion"] == "serving.kserve.io/v1beta1"
    predictor = resource["spec"]["predictor"]
    model = predictor["model"]
    for kind, values in (
        ("V1beta1InferenceService", resource),
        ("V1beta1InferenceServiceSpec", resource["spec"]),
        ("V1beta1PredictorSpec", predictor),
        ("V1beta1ModelSpec", model),
        ("V1beta1ModelFormat", model["modelFormat"]),
    ):
        assert set(values) <= kserve_fields(kind), kind
    # the repository is Triton's, and the request that of this protocol
    assert model["modelFormat"]["name"] == "triton" and model["protocolVersion"] == "v2"
    assert resource["metadata"]["name"] == "embedder"


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers as the servers' protocols say, with the ONNX file in place of a server."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/models/embedder:predict":
            answer = {"outputs": self.predicted(**asked).tolist()}
        else:
            assert self.path == "/v2/models/embedder/infer"
            (image,) = asked["inputs"]
            assert (image["name"], image["datatype"]) == ("image", "FP32")
            found = self.embedded(np.reshape(image["data"], image["shape"]))
            output = {"name": "embedding", "datatype": "FP32", "shape": found.shape}
            answer = {"outputs": [output | {"data": found.ravel().tolist()}]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def predicted(self, signature_name, inputs):
        if signature_name == "serving_default":
            return self.embedded(inputs["image"])
        contents = [base64.b64decode(content["b64"]) for content in inputs["contents"]]
        return self.server.signatures[signature_name](contents=contents)["embedding"].numpy()

    def embedded(self, image):
        return self.server.session.run(None, {"image": np.asarray(image, "float32")})[0]

    def log_message(self, format, *args):
        pass


@contextlib.contextmanager
def stand_in(exports, signatures=None):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as server:
        server.session = onnxruntime.InferenceSession(exports / "embedder.onnx")
        server.signatures = signatures
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def views(exports):
    """What the page about runtimes makes of the two pictures, and its names."""
    facts = exports / "saved_model" / "assets.extra" / "keras_ms.json"
    names = {"rule": json.loads(facts.read_text())["preprocessing_rule"]}
    exec(code_of("view", "runtimes.md"), names)
    return np.stack([names["view"](exports / f"{name}.png", names["rule"]) for name in "ab"]), names


@pytest.mark.parametrize("request_of", ["tensorflow-serving-request", "open-inference-request"])
def test_the_requests_bring_the_embeddings_of_the_file(exports, request_of):
    images, names = views(exports)
    exec(code_of(request_of), names)
    with stand_in(exports) as address:
        found = names["embed"]([exports / "a.png", exports / "b.png"], address)
    session = onnxruntime.InferenceSession(exports / "embedder.onnx")
    expected = session.run(None, {"image": images})[0]
    assert found.shape == (2, 512) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_files_are_sent_as_they_are_to_the_signature_that_decodes_them(exports):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exports / "saved_model"))
    names = {}
    exec(code_of("tensorflow-serving-files"), names)
    with stand_in(exports, loaded.signatures) as address:
        found = names["embed_files"]([exports / "a.png", exports / "b.png"], address)
    expected = loaded.signatures["serving_default"](image=tf.constant(views(exports)[0]))
    # Pillow rounds after each of the two axes
    np.testing.assert_allclose(found, expected["embedding"], atol=0.01)
