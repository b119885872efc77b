"""The losses by name: what the source says is what the classes do."""

import subprocess
import sys
from pathlib import Path

import pytest

from keras_ms.losses import catalogue
from keras_ms.run import losses

FOLDER = Path(catalogue.__file__).parent


@pytest.mark.parametrize("name", losses.loss_names())
def test_options_are_those_of_the_class_with_its_defaults(name):
    options = {option.name: option.default for option in losses.loss_options(name)}
    default = losses.named_loss(name)
    assert default.name == name
    config = default.get_config()
    assert set(options) | {"name", "tree"} >= set(config) - {"block_size"}
    for option, value in options.items():
        if value is not None:  # None may stand for a number
            assert config[option] == value
    same = losses.named_loss(name, **options).get_config()
    assert same == config
    assert all(option.help for option in losses.loss_options(name))


def test_a_file_has_the_name_of_its_loss():
    assert all((FOLDER / f"{name}.py").is_file() for name in catalogue.loss_names())


def test_what_needs_arguments_has_no_name():
    names = losses.loss_names()
    assert "hierarchical_triplet" in names and "hierarchical_triplet" not in catalogue.loss_names()
    assert not {"weighted_pairs", "composite", "proxy_nca", "pair_loss"} & set(names)
    assert "tree" not in {option.name for option in losses.loss_options("hierarchical_triplet")}


def test_unknown_names_and_options_are_refused_with_the_known():
    with pytest.raises(ValueError, match="multi_similarity.*Received: 'triplets'"):
        losses.named_loss("triplets")
    with pytest.raises(ValueError, match="multi_similarity.*Received: 'triplets'"):
        losses.loss_options("triplets")
    with pytest.raises(ValueError, match="treshold. Expected some of threshold"):
        losses.named_loss("contrastive", treshold=1)


def test_types_are_those_of_the_annotations():
    types = {option.name: option.types for option in losses.loss_options("multi_similarity")}
    assert types["alpha"] == (float,) and types["epsilon"] == (float, type(None))
    assert set(types["jit_compile"]) == {bool, str}
    assert {option.types for option in losses.loss_options("triplet")[:2]} == {(float,), (str,)}


def test_a_new_file_is_a_new_loss(tmp_path):
    source = '''
class SquaredLoss(PairLoss):
    """Computes squares.

    Args:
        power: of the similarity,
            a whole number.
        name, **options: `jit_compile` as in `PairLoss`.
    """

    def __init__(self, power=2, *, name="squared", **options):
        pass
'''
    (tmp_path / "squared.py").write_text(source)
    (tmp_path / "needy.py").write_text(source.replace("power=2", "power"))
    sources = (str(tmp_path),)
    assert catalogue.loss_names(sources) == ("squared",)
    power, jit_compile = catalogue.loss_options("squared", sources)
    assert power == ("power", 2, "of the similarity, a whole number.", (int,), ())
    assert (jit_compile.name, jit_compile.default) == ("jit_compile", "auto")


def test_names_and_options_need_no_keras():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('catalogue', {catalogue.__file__!r})\n"
        "module = sys.modules['catalogue'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "assert module.loss_options(module.loss_names()[0])\n"
        "print(sorted({'keras', 'tensorflow', 'numpy'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
