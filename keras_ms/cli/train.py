"""keras-ms train: an embedder, trained, evaluated on unseen classes and exported."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from tyro.constructors import PrimitiveConstructorSpec

from keras_ms.cli.earlier_words import words_of_now
from keras_ms.cli.keras_import import import_keras
from keras_ms.cli.parse import check_is_there, option, parsed
from keras_ms.cli.setting_options import named_options, setting_options
from keras_ms.models.backbone_sources import check_backbone_source
from keras_ms.models.weights_packages import installed_weights_file
from keras_ms.run.losses import hdml_options, loss_names, loss_options
from keras_ms.run.settings import Settings, read_values
from keras_ms.run.settings.declaration import flag
from keras_ms.run.settings.groups import GROUPS, OPTIONS, SETTINGS
from keras_ms.run.tracking import check_tracking
from keras_ms.terminal.command_words import WrongWords
from keras_ms.terminal.memory import keep_freed_memory

_DESCRIPTION = (
    "Trains an embedder, evaluates it on unseen classes and exports it. Defaults follow what is "
    "trained: a network from scratch, a head on a frozen backbone, a pretrained network."
)

_RUN_FOLDER = PrimitiveConstructorSpec(
    nargs=(0, 1),
    metavar="[RUN_FOLDER]",
    instance_from_str=lambda words: _at_most_one(words),
    is_instance=lambda value: isinstance(value, str),
    str_from_instance=lambda value: [value],
)


class _RunOptions(TypedDict, total=False):
    config: Annotated[
        str, option("settings.json to start from; what is given wins", "FILE", default="")
    ]
    resume: Annotated[
        str,
        _RUN_FOLDER,
        option(
            "continue an interrupted run; without a folder, the newest unfinished one", default=""
        ),
    ]


def run(words: Sequence[str]) -> None:
    """Trains as the words of the command line say.

    Raises:
        SystemExit: wrong words, or help.
        WrongWords: an option that the loss does not have, or a value behind one without.
        ValueError: settings that contradict each other.
    """
    words, lines = words_of_now(words)
    for line in lines:
        print(line, file=sys.stderr)
    run_options, given = _given(words)
    resume, config = run_options.get("resume"), run_options.get("config")
    if config == "":
        raise ValueError("Expected a file of settings with --config. Received an empty name")
    if resume:
        changed = ["--config"] * bool(config)
        changed += [flag(name) for name in sorted(given) if name != "runs_folder"]
        if changed:
            raise ValueError(
                f"--resume continues a run with its own settings. Leave out {', '.join(changed)}"
            )
    given = _with_options(given)
    # defaults follow what is trained, so they are taken once all that is given is known
    settings = Settings.read(config, given) if config else Settings.from_values(**given)

    if resume:
        if resume != "latest":
            check_is_there(resume, "the folder of a run to resume")
    else:
        check_backbone_source(settings.model.backbone)
        if settings.model.weights == "package":
            installed_weights_file(settings.model.backbone)
        check_tracking(settings)
        if settings.model.weights not in ("", "imagenet", "package"):
            check_is_there(settings.model.weights, "a .weights.h5 file, imagenet or package")
        if settings.data.data_dir:
            check_is_there(settings.data.data_dir, "the folder or CSV file of the images")

    keep_freed_memory()
    import_keras()
    from keras_ms.run.training import train

    train(settings, resume)


def _given(words):
    """(options of the command, settings and options of the loss by their names): what is given."""
    loss = _loss_of(words)
    _refuse_unknown_options(words, f"loss={loss}", loss_options(loss))
    _refuse_unknown_options(words, "hdml", hdml_options())
    _refuse_values_of_switches(words)
    groups = parsed(_options(loss), "train", _DESCRIPTION, words, none_is_a_value=True)
    run_options = groups.pop("run")
    return run_options, {name: value for group in groups.values() for name, value in group.items()}


def _with_options(given):
    """Settings by flat name, with the options of the loss and of HDML in a dict each."""
    values = {}
    for name, value in given.items():
        owner, _, option_name = name.partition(".")
        if option_name:
            values.setdefault(OPTIONS[owner], {})[option_name] = value
        else:
            values[name] = value
    return values


def _options(loss: str) -> Any:
    """The type of all options: those of the command, of each group of settings and of the loss."""
    named = {"loss": loss_options(loss), "hdml": hdml_options()}
    types = {"run": _RunOptions}
    for group, kind in GROUPS.items():
        names = [name for name, one in SETTINGS.items() if one.group == group]
        description = (kind.__doc__ or "").partition("\n")[0]
        if group == "loss":
            description += f" Here those of {loss}; --loss NAME --help has those of another."
        types[group] = setting_options(
            [name for name in names if name not in OPTIONS.values()],
            description=description,
            more=named_options(group, named.get(group, ())),
        )
    return TypedDict("Options", types)  # pyright: ignore


def _at_most_one(words):
    if len(words) > 1 or words == [""]:
        raise ValueError(f"expected one folder, received {' '.join(words) or 'an empty name'}")
    return words[0] if words else "latest"


def _loss_of(words):
    """The loss that the words name, or their file of settings: it decides which options there are.

    Another word than a loss is refused when all words are parsed.
    """
    named = _value_of("--loss", words)
    config = _value_of("--config", words)
    if named is None and config:
        named = read_values(config).get("loss")
    return named if named in loss_names() else SETTINGS["loss"].default


def _value_of(name, words):
    """What is given as an option, the last time; None where it is not."""
    for place in reversed(range(len(words))):
        if words[place].startswith(f"{name}="):
            return words[place].partition("=")[2]
        if words[place] == name and place + 1 < len(words):
            return words[place + 1]
    return None


def _refuse_unknown_options(words, owner, declared):
    setting = owner.partition("=")[0]
    prefix = f"--{setting}."
    names = [one.name for one in declared]
    for word in words:
        name = word.removeprefix(prefix).partition("=")[0].replace("-", "_")
        if word.startswith(prefix) and name not in names:
            raise WrongWords(
                f"{owner} has no option {name!r}. It has {', '.join(names)}. Received: {word}"
            )
        name = word.removeprefix(f"--{setting}-").partition("=")[0].replace("-", "_")
        if word.startswith(f"--{setting}-") and name in names:
            raise WrongWords(
                f"Options of the {setting} have a dot: {prefix}{name}. Received: {word}"
            )


def _refuse_values_of_switches(words):
    """Of `--interpolate true` the parser says that it does not know the word true."""
    switches = {flag(one.name) for one in SETTINGS.values() if one.kinds == (bool,)}
    for before, word in zip(words, words[1:]):
        if before in switches and word.lower() in ("true", "false", "yes", "no", "on", "off"):
            raise WrongWords(
                f"{before} stands alone, without a value; --no-{before[2:]} is its opposite. "
                f"Received: {before} {word}"
            )
