"""Public PyTorch weights of BN-Inception: the same features, and no file that runs or half fits."""

import json
import os
import sys

import numpy as np
import pytest

from keras_ms.cli.main import main
from keras_ms.models.backbones import build_backbone
from keras_ms.models.bn_inception import bn_inception
from keras_ms.models.convert_weights import convert_weights, keras_values
from keras_ms.models.tensor_files import read_tensors

MEAN = np.array([104, 117, 128], "float32")[:, None, None]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip(
        "torch", reason="PyTorch is not installed: `pip install torch` (the CPU build will do)"
    )


def hide_torch(monkeypatch):
    """As if PyTorch were not installed."""

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "torch":
                raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


@pytest.fixture(scope="module")
def network():
    return bn_inception((31, 31, 3))


@pytest.fixture(scope="module")
def tensors(network):
    """What a PyTorch file holds, without PyTorch: names and shapes from the public layout."""
    random = np.random.default_rng(0)
    held = {}
    for layer in network.layers:
        if layer.name.endswith("_bn"):
            width = layer.gamma.shape[0]
            for name in ("weight", "bias", "running_mean", "running_var"):
                held[f"{layer.name}.{name}"] = random.uniform(0.5, 1.5, (1, width))
        elif hasattr(layer, "kernel"):
            height, width, before, after = layer.kernel.shape
            held[f"{layer.name}.weight"] = random.normal(size=(after, before, height, width))
            held[f"{layer.name}.bias"] = random.normal(size=after)
    held["last_linear.weight"] = random.normal(size=(1000, 1024))
    return {name: value.astype("float32") for name, value in held.items()}


def write_safetensors(path, tensors):
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, value in tensors.items():
        header[name] = {
            "dtype": {"f": "F", "i": "I"}[value.dtype.kind] + str(8 * value.itemsize),
            "shape": value.shape,
            "data_offsets": [start, start + value.nbytes],
        }
        start += value.nbytes
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(value).tobytes() for value in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.fixture(scope="module")
def converted(torch, tmp_path_factory):
    """A random network in PyTorch and its weights file in Keras."""
    from torch_bn_inception import BNInception, randomize

    folder = tmp_path_factory.mktemp("weights")
    torch_network = randomize(BNInception()).eval()
    state = torch_network.state_dict()
    for name in state:
        if "_bn." in name and state[name].ndim == 1:
            state[name] = state[name][None]  # (1, C), as the public file has them
    # the public file is of the time before zip archives
    torch.save(state, folder / "public.pth", _use_new_zipfile_serialization=False)
    left_out = convert_weights(folder / "public.pth", folder / "bn.weights.h5")
    assert left_out == ["last_linear.weight", "last_linear.bias"]
    return torch_network, folder / "bn.weights.h5"


@pytest.mark.parametrize("size", [pytest.param(224, marks=pytest.mark.slow), 227])
def test_features_are_those_of_pytorch(torch, converted, size):
    torch_network, weights = converted
    images = np.random.default_rng(size).uniform(0, 255, (2, size, size, 3)).astype("float32")
    backbone = build_backbone("bn_inception", input_shape=(size, size, 3), weights=weights)
    features = backbone(images, training=False).numpy()
    bgr = np.ascontiguousarray(images.transpose(0, 3, 1, 2)[:, ::-1]) - MEAN
    with torch.no_grad():
        expected = torch_network(torch.from_numpy(bgr)).numpy().transpose(0, 2, 3, 1)
    assert features.shape == (2, 7, 7, 1024)
    assert 0.3 < expected.std() < 30 and np.mean(expected > 0) > 0.2
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_safetensors_file_needs_no_pytorch(tensors, tmp_path, monkeypatch, capsys):
    hide_torch(monkeypatch)
    source = write_safetensors(tmp_path / "bn.safetensors", tensors)
    target = tmp_path / "new folder" / "bn.weights.h5"
    assert main(["convert-weights", str(source), "--to", str(target)]) == 0
    assert "without last_linear.weight" in capsys.readouterr().out
    backbone = build_backbone(
        "bn_inception", input_shape=(31, 31, 3), weights=target, frozen_batch_norm=False
    )
    inner = next(layer for layer in backbone.layers if layer.name == "bn_inception")
    kernel = inner.get_layer("inception_3c_3x3").kernel.numpy()
    np.testing.assert_array_equal(kernel, tensors["inception_3c_3x3.weight"].transpose(2, 3, 1, 0))
    norm = inner.get_layer("inception_5b_pool_proj_bn")
    for name, variable in zip(
        ("weight", "bias", "running_mean", "running_var"),
        (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance),
    ):
        np.testing.assert_array_equal(variable, tensors[f"{norm.name}.{name}"][0])


def test_every_fault_is_named_and_nothing_is_written(tensors, tmp_path):
    wrong = dict(tensors)
    wrong["conv2_3x3.kernel"] = wrong.pop("conv2_3x3.weight")
    wrong["fc.bias"] = np.zeros(3, "float32")
    wrong["conv1_7x7_s2.bias"] = np.zeros(63, "float32")
    wrong["inception_3a_1x1.weight"] = wrong["inception_3a_1x1.weight"][:, :, 0, 0]
    source = write_safetensors(tmp_path / "wrong.safetensors", wrong)
    with pytest.raises(ValueError) as caught:
        convert_weights(source, tmp_path / "bn.weights.h5")
    message = str(caught.value)
    assert "1 tensors missing: conv2_3x3.weight;" in message
    assert "2 tensors not of this network: conv2_3x3.kernel, fc.bias;" in message or (
        "2 tensors not of this network: fc.bias, conv2_3x3.kernel;" in message
    )
    assert "2 tensors of another shape: conv1_7x7_s2.bias (63,) instead of (64,)" in message
    assert "inception_3a_1x1.weight (64, 192) instead of (64, 192, 1, 1)" in message
    assert [file.name for file in tmp_path.iterdir()] == ["wrong.safetensors"]


def test_renamed_keys_are_all_named(tensors, network):
    with pytest.raises(ValueError) as caught:
        keras_values({f"module.{name}": value for name, value in tensors.items()}, network)
    names = [name for name in tensors if not name.startswith("last_linear")]
    assert all(f" {name}" in str(caught.value) for name in names)
    assert all(f"module.{name}" in str(caught.value) for name in tensors)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("conv2_3x3.weight", np.nan, "1 tensors not finite numbers: conv2_3x3.weight"),
        ("conv2_3x3_bn.running_var", -1.0, "1 tensors below 0: conv2_3x3_bn.running_var"),
    ],
)
def test_impossible_values_are_named(tensors, network, name, value, message):
    wrong = {**tensors, name: tensors[name].copy()}
    wrong[name].flat[3] = value
    with pytest.raises(ValueError, match=message):
        keras_values(wrong, network)


def test_counters_of_batches_are_left_out(tensors, network):
    counted = {**tensors, "conv2_3x3_bn.num_batches_tracked": np.array(7)}
    values, left_out = keras_values(counted, network)
    assert left_out == ["last_linear.weight"]
    assert sum(len(arrays) for arrays in values.values()) == 69 * 6


def test_a_pickle_that_runs_code_is_refused(torch, tmp_path, capsys):
    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    for zipped in (True, False):
        source = tmp_path / f"malicious{zipped}.pth"
        torch.save(
            {"conv1_7x7_s2.weight": Malicious()}, source, _use_new_zipfile_serialization=zipped
        )
        target = tmp_path / "bn.weights.h5"
        assert main(["convert-weights", str(source), "--to", str(target)]) == 1
        assert "never run here" in capsys.readouterr().err
        assert not (tmp_path / "ran").exists() and not target.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_pytorch_file_is_refused(torch, tmp_path, zipped, share):
    source = tmp_path / "cut.pth"
    held = {f"layer{n}.weight": torch.ones(50, 50) for n in range(20)}
    torch.save(held, source, _use_new_zipfile_serialization=zipped)
    contents = source.read_bytes()
    source.write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(ValueError, match="cut.pth .*cut short"):
        read_tensors(source)


def test_pytorch_files_of_other_things_are_refused(torch, tmp_path):
    for held, message in [
        (torch.ones(3), "holds: Tensor"),
        ({"model": {"weight": torch.ones(3)}}, r"model \(dict\)"),
        ({"weight": torch.ones(3, dtype=torch.bfloat16)}, "float32"),
        ({3: torch.ones(3)}, r"3 \(Tensor\)"),
    ]:
        torch.save(held, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=message):
            read_tensors(tmp_path / "other.pth")


def test_without_pytorch_the_message_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "network.pth").write_bytes(b"anything")
    hide_torch(monkeypatch)
    with pytest.raises(ImportError, match="pip install torch.*safetensors"):
        read_tensors(tmp_path / "network.pth")


def test_without_safetensors_the_message_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "network.safetensors").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install safetensors.*.\[convert\]"):
        read_tensors(tmp_path / "network.safetensors")


def test_a_pytorch_that_runs_code_is_refused(tmp_path, monkeypatch):
    class Old:
        __version__ = "2.5.1+cpu"

    (tmp_path / "network.pth").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "torch", Old)
    with pytest.raises(ImportError, match="2.6.*2.5.1"):
        read_tensors(tmp_path / "network.pth")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_safetensors_file_is_refused(tmp_path, share):
    source = write_safetensors(tmp_path / "cut.safetensors", {"a": np.ones((40, 40), "float32")})
    contents = source.read_bytes()
    source.write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(ValueError, match="cut.safetensors"):
        read_tensors(source)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]},
        {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [2**80, 0], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4]},
        [1, 2],
    ],
)
def test_a_wrong_table_of_contents_is_refused(tmp_path, entry):
    text = json.dumps({"a": entry}).encode()
    source = tmp_path / "wrong.safetensors"
    source.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(ValueError, match="wrong.safetensors"):
        read_tensors(source)


def test_types_of_numbers_are_kept(tmp_path):
    held = {kind: np.arange(6, dtype=kind).reshape(2, 3) for kind in ("f2", "f4", "f8", "i8")}
    read = read_tensors(write_safetensors(tmp_path / "a.safetensors", held))
    for kind, values in held.items():
        np.testing.assert_array_equal(read[kind], values)
        assert read[kind].dtype == np.dtype(kind)


def test_names_of_files_are_checked_first(tmp_path):
    with pytest.raises(ValueError, match="weights.h5"):
        convert_weights("absent.pth", tmp_path / "bn.h5")
    with pytest.raises(ValueError, match="Nothing is at"):
        convert_weights(tmp_path / "absent.pth", tmp_path / "bn.weights.h5")
    (tmp_path / "network.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.pth, \.pt or \.bin"):
        read_tensors(tmp_path / "network.ckpt")
