"""Settings of batches, training, evaluation and export."""

from dataclasses import dataclass

from keras_ms.run.settings.declaration import check_group, setting

_TRAINED_BACKBONE = {"freeze_backbone": (False,)}


@dataclass(frozen=True)
class BatchSettings:
    """Which images meet in a batch."""

    # many classes hold more hard negatives; the official recipe for photos is 16 x 5
    classes_per_batch: int = setting(
        None,
        "classes in a batch, at least 2, to have pairs; default: 32 from scratch, else 16, or all "
        "where there are fewer",
        at_least=2,
    )
    images_per_class: int = setting(
        None,
        "images of each class in a batch, at least 2, to have pairs; default: 4 from scratch, "
        "else 5",
        at_least=2,
    )
    neighbour_classes: int = setting(
        1,
        "a batch holds groups of so many classes, one drawn at random and its nearest by the "
        "training embeddings, which are computed every epoch; 1: all drawn at random",
        at_least=1,
    )
    curriculum: str = setting(
        "",
        "table of `keras-ms curriculum`: trains in stages of equal length, one for each subset in "
        "it: the clean images first, then the noisy ones too at half weight, then all; the "
        "learning rate's schedule runs in each",
    )

    def __post_init__(self) -> None:
        check_group(self)


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast the network trains, and how its weights are chosen."""

    steps: int = setting(
        None,
        "training steps in all; default: 600, or 300 when a pretrained network is fine-tuned",
        at_least=1,
    )
    steps_per_epoch: int = setting(
        None,
        "steps between evaluations; default: 100, or what divides the steps",
        at_least=1,
    )
    learning_rate: float = setting(
        None,
        "Adam's learning rate, of the head and all else; default: 2e-3 from scratch, 1e-4 when a "
        "pretrained network is fine-tuned, 1e-4 or 5e-4 with a frozen backbone, as --tune finds",
        above=0,
    )
    backbone_learning_rate: float | None = setting(
        None,
        "learning rate of the backbone; default: --learning-rate; of a pretrained one without a "
        "name in `keras-ms backbones` a tenth of it, unless --layer-decay or --lora-rank is given",
        at_least=0,
        read_with=_TRAINED_BACKBONE,
    )
    layer_decay: float = setting(
        # one rate for the whole backbone; docs/fine_tuning.md has what it did
        1.0,
        "factor of the backbone's learning rate from each of its blocks to the one before it, "
        "towards the input; 0.65 to 0.85 is usual for transformers; 1: the same for all",
        above=0,
        at_most=1,
        read_with=_TRAINED_BACKBONE,
    )
    freeze_blocks: int = setting(
        0,
        "hold the backbone's stem and so many of its first blocks as they are",
        at_least=0,
        read_with=_TRAINED_BACKBONE,
    )
    lora_rank: int = setting(
        0,
        "train a transformer's backbone by low-rank changes of its query and value projections, of "
        "this rank, and nothing else in it; 4 to 16 is usual; 0: all its weights",
        at_least=0,
        read_with={**_TRAINED_BACKBONE, "hdml": ("off",)},
    )
    coupled_l2: float = setting(
        # the official recipe's 5e-4 is for fine-tuning ImageNet weights
        0.0,
        "added to the gradient times the parameter (not decoupled), biases included",
        at_least=0,
    )
    weight_decay: float = setting(
        0.0,
        "AdamW's decay, decoupled from the gradient, of the layers' kernels: no biases, "
        "normalisations, position embeddings; 0.01 to 0.1 is usual",
        at_least=0,
    )
    clip_norm: float = setting(
        0.0,
        "gradients of a larger norm, all together, are scaled down to it; 1 is usual; 0: never",
        at_least=0,
    )
    ema: float = setting(
        0.0,
        "average the weights over the steps with this share kept at each, and measure, choose and "
        "export the average: about the last 1 / (1 - share) steps, such as 0.98 with 300 steps; 0: "
        "no average",
        at_least=0,
        below=1,
        read_with={"hdml": ("off",)},
    )
    gradient_checkpointing: bool = setting(
        False,
        "compute what the backbone's blocks computed again for the gradient instead of keeping it: "
        "less memory, and a forward pass more; for transformers",
        read_with=_TRAINED_BACKBONE,
    )
    schedule: str = setting(
        "cosine",
        "cosine (to 0), step (x 0.1 at 40 % and 80 %, the official 1200 and 2400 of 3000, or at "
        "--decay-steps) or constant",
        choices=("cosine", "step", "constant"),
    )
    decay_steps: tuple[int, ...] = setting(
        # published recipes name steps of their own
        (),
        "with the schedule step: the steps, after each of which the learning rate falls to a tenth "
        "(in each stage of a curriculum); empty: 40 % and 80 % of all",
        read_with={"schedule": ("step",)},
    )
    warmup_steps: int = setting(
        0,
        "the learning rate rises over so many steps to that of the schedule (in each stage of a "
        "curriculum)",
        at_least=0,
    )
    tune: str = setting(
        "auto",
        "folds: with a frozen backbone, choose the head's start, learning rate and interpolation "
        "by folds over the training classes (each held out once), then train on all of them; what "
        "is given is not chosen; off; auto: folds wherever they can choose",
        choices=("auto", "folds", "off"),
    )
    interpolate: bool = setting(
        None,
        "at the end, keep the best weights between the start and the trained ones, by the held-out "
        "classes; default: yes with pretrained weights and frozen batch statistics",
    )
    precision: str = setting(
        "float32",
        "of the network; the loss is always float32",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
    )
    devices: int = setting(
        # one needs no copies of the network and no transfers
        1,
        "devices that share every batch: 1, or the first so many GPUs; without GPUs, logical "
        "devices of the processor, to try it out",
        at_least=1,
    )
    seed: int = setting(
        0,
        "of initial weights, batches, augmentation and drawn glyphs",
        at_least=0,
        at_most=2**32 - 1,  # NumPy and Keras take no larger ones
    )
    runs_folder: str = setting("runs", "a folder for every run is made in here")
    run_name: str = setting("", "name of the run's folder; empty: data set, backbone, date, time")

    def __post_init__(self) -> None:
        check_group(self)

    def decay_boundaries(self, steps: int | None = None) -> tuple[int, ...]:
        """The last step of each learning rate but the last, for the schedule "step".

        Args:
            steps: length of the schedule, that of a stage with a curriculum. Defaults to None: all
                steps.

        Raises:
            ValueError: `decay_steps` that do not ascend within the steps.
        """
        end = f"steps={self.steps}" if steps is None else f"{steps}, the steps of a stage"
        last = self.steps if steps is None else steps
        if not self.decay_steps:
            return int(0.4 * last), int(0.8 * last)
        if list(self.decay_steps) != sorted({0, last, *self.decay_steps})[1:-1]:
            raise ValueError(
                f"Invalid value for decay_steps. Expected ascending whole numbers between 0 and "
                f"{end}, such as 1200,2400. Received: {','.join(map(str, self.decay_steps))}"
            )
        return self.decay_steps


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured."""

    ks: tuple[int, ...] = setting((1, 2, 4, 8), "the K of Recall@K; 1 is among them", at_least=1)
    evaluation_batch_size: int = setting(64, "images embedded at a time", at_least=1)
    raw_pixels: bool | None = setting(
        None,
        "report what neighbours by raw pixels reach, for comparison; default: for characters, of "
        "photos it takes a minute and says little",
    )
    tensorboard: bool = setting(
        False,
        "write the curves for TensorBoard too, into the run's folder (pip install tensorboard)",
    )

    def __post_init__(self) -> None:
        check_group(self)
        object.__setattr__(self, "ks", tuple(sorted({1, *self.ks})))


@dataclass(frozen=True)
class ExportSettings:
    """Files for other programs."""

    formats: tuple[str, ...] = setting(
        ("saved_model", "onnx"),
        "what to export at the end: saved_model, onnx, photo_onnx (an ONNX file that takes photos "
        "of any size and prepares them itself), or several, such as saved_model,onnx; empty: "
        "nothing",
        flat_name="export",
        choices=("saved_model", "onnx", "photo_onnx"),
    )
    export_folder: str = setting("saved_models", "SavedModel and ONNX are exported into here")

    def __post_init__(self) -> None:
        check_group(self)
