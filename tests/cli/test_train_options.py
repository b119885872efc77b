"""Options of keras-ms train: what is given reaches the settings, and wrong words are refused."""

import json
from pathlib import Path

import pytest

from keras_ms.cli.main import main
from keras_ms.run.settings import Settings

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture
def settings_of(monkeypatch):
    """The settings that a training with these words gets."""
    seen = []
    monkeypatch.setattr(
        "keras_ms.run.training.train", lambda settings, resume: seen.append(settings)
    )

    # files that settings name need not be there
    monkeypatch.setattr("keras_ms.cli.train.check_is_there", lambda path, expected: None)

    def call(*words):
        assert main(["train", *map(str, words)]) == 0
        return seen.pop()

    return call


@pytest.mark.parametrize(
    "words, values",
    [
        ("--image-size 64 --no-check-counts", {"image_size": 64, "check_counts": False}),
        ("--freeze-backbone --no-interpolate", {"freeze_backbone": True, "interpolate": False}),
        ("--ks 10,4", {"ks": (1, 4, 10)}),
        ("--steps 3000 --schedule step --decay-steps 1200,2400",
         {"steps": 3000, "schedule": "step", "decay_steps": (1200, 2400)}),
        ("--export onnx", {"export": ("onnx",)}),
        ("--export=", {"export": ()}),
        ("--loss triplet --loss.margin 0.2 --loss.mining hard",
         {"loss": "triplet", "loss_options": {"margin": 0.2, "mining": "hard"}}),
        ("--loss.epsilon None --loss.beta=50", {"loss_options": {"epsilon": None, "beta": 50.0}}),
        ("--loss n_pair --loss.one_pair_per_class True --loss.jit-compile False",
         {"loss": "n_pair", "loss_options": {"one_pair_per_class": True, "jit_compile": False}}),
        ("--loss hierarchical_triplet --loss.beta -0.1",
         {"loss": "hierarchical_triplet", "loss_options": {"beta": -0.1}}),
        ("--hdml paper --hdml.alpha 90", {"hdml": "paper", "hdml_options": {"alpha": 90.0}}),
    ],
)  # fmt: skip
def test_options_as_words(settings_of, words, values):
    assert settings_of(*words.split()) == Settings.from_values(**values)


@pytest.mark.parametrize("words", ["--loss.mining foo", "--loss.jit-compile maybe"])
def test_a_choice_that_a_loss_does_not_have_is_refused_by_the_command_line(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--loss", "triplet", *words.split()])
    assert words.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize("place", ["./alpha", "./beta", "xxepsilon"])
def test_a_folder_is_no_option_of_before(settings_of, place):
    assert settings_of("--runs-folder", place).training.runs_folder == place


@pytest.mark.parametrize("words", [["--resume", ""], ["--resume="], ["--config", ""]])
def test_an_empty_name_is_no_run_and_no_file(words, monkeypatch, capsys):
    monkeypatch.setattr("keras_ms.run.training.train", lambda *_: pytest.fail("it trained"))
    try:
        code = main(["train", *words])
    except SystemExit as ended:
        code = ended.code
    assert code in (1, 2)
    assert "an empty name" in " ".join(capsys.readouterr().err.split()).lower()


def test_an_empty_word_exports_nothing(settings_of):
    assert settings_of("--export", "").export.formats == ()


@pytest.mark.parametrize(
    "words, now",
    [
        (["--loss", "triplet", "--loss-settings", "margin=0.2,mining=hard"],
         "--loss-settings margin=0.2,mining=hard is now --loss.margin 0.2 --loss.mining hard"),
        (["--hdml", "paper", "--hdml-settings=alpha=1,beta=1e3"],
         "--hdml-settings alpha=1,beta=1e3 is now --hdml.alpha 1 --hdml.beta 1e3"),
        (["--alpha", "3", "--epsilon=0.2"], "--alpha 3 is now --loss.alpha 3"),
        (["--loss-settings", ""], "--loss-settings '' is now left out"),
    ],
)  # fmt: skip
def test_earlier_spellings_work_and_say_the_new_one(settings_of, capsys, words, now):
    settings = settings_of(*words)
    assert now in capsys.readouterr().err.splitlines()
    expected = {
        "--loss": {"loss": "triplet", "loss_options": {"margin": 0.2, "mining": "hard"}},
        "--hdml": {"hdml": "paper", "hdml_options": {"alpha": 1.0, "beta": 1000.0}},
        "--alpha": {"loss_options": {"alpha": 3.0, "epsilon": 0.2}},
        "--loss-settings": {},
    }[words[0]]
    assert settings == Settings.from_values(**expected)


def test_what_is_given_wins_over_the_file(settings_of, tmp_path):
    before = FIXTURES / "settings_before_groups_triplet.json"
    settings = settings_of("--config", before, "--loss.margin", "0.4", "--steps", "200")
    assert settings == Settings.read(before).with_values(loss_options={"margin": 0.4}, steps=200)
    file = tmp_path / "settings.json"
    file.write_text(settings.to_json())
    assert settings_of("--config", file) == settings
    # the margin of the file is one of triplets
    assert settings_of("--config", file, "--loss", "contrastive").loss.options == {}
    file.write_text(json.dumps({"hdml": {"mode": "paper", "options": {"alpha": 2.0}}}))
    assert settings_of("--config", file, "--hdml", "off").hdml.options == {}


@pytest.mark.parametrize(
    "words, code, message",
    [
        ("--losss triplet", 2, "--loss"),
        ("--loss triplets", 2, "supervised_contrastive"),
        ("--seed half", 2, "--seed"),
        ("--loss.alpha much", 2, "--loss.alpha"),
        ("--ks 1,two", 2, "whole numbers"),
        ("--loss triplet --loss.gap 1", 2, "loss=triplet has no option 'gap'. It has margin, min"),
        ("--hdml paper --hdml.gamma 1", 2, "lambda_g"),
        ("--loss triplet --loss-margin=0.2", 2, "have a dot: --loss.margin. Received: --loss-m"),
        ("--interpolate true", 2, "--interpolate stands alone, without a value; --no-interp"),
        ("--loss-settings", 1, "Expected a value behind --loss-settings"),
        ("--resume --steps 3 --loss.alpha 1", 1, "Leave out --loss.alpha, --steps"),
    ],
)
def test_wrong_words_are_refused(capsys, words, code, message):
    words = ["train", *words.split()]
    try:
        assert main(words) == code
    except SystemExit as of_the_parser:
        assert of_the_parser.code == code
    assert message in capsys.readouterr().err


def test_help_has_every_group_and_the_options_of_the_chosen_loss(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--loss", "triplet", "--help"])
    printed = capsys.readouterr().out
    for words in ("data options", "training options", "--loss.mining", "--hdml.beta", "--config"):
        assert words in printed
    assert "--loss.epsilon" not in printed and "(default: 1,2,4,8)" in printed
