"""Settings of the network, of its loss and of what stands around the loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_ms.models.backbone_names import (
    NORMALISATION_NAMES,
    backbone_kind,
    check_backbone_name,
)
from keras_ms.models.weights_packages import weights_package
from keras_ms.run.losses import hdml_options, loss_names, loss_options
from keras_ms.run.settings.declaration import check_group, check_options, setting

_WITH_A_TREE = {"loss": ("hierarchical_triplet",)}


@dataclass(frozen=True)
class ModelSettings:
    """The network that embeds: its backbone, its head, what of them is trained."""

    backbone: str = setting(
        "small",
        "small, small_wide, small_deep, bn_inception, inception_v3, resnet50, mobilenet_v2, "
        "efficientnet_lite0, efficientnet_v2_b0 … (keras-ms backbones lists them); a .keras file; "
        "or hub: and a preset of KerasHub: its name, an address (hf://…, kaggle://…) or a folder",
    )
    weights: str = setting(
        "",
        "backbone weights: a .weights.h5 file, imagenet (downloads), or package (of "
        "efficientnet_lite0, from the extra lite0); empty: random",
    )
    output_layer: str = setting("", "layer of the backbone to stop at, such as mixed8")
    pooling: str | None = setting(
        None,
        "of a feature map avg, max, avg+max, gem (generalised mean, its power trained) or none "
        "(the head takes the whole map, for characters); of a transformer's tokens cls, patches or "
        "cls+patches; default: avg; cls, or patches without a class token; a vector passes",
        choices=("avg", "max", "avg+max", "gem", "none", "cls", "patches", "cls+patches"),
    )
    normalisation: str = setting(
        "auto",
        "what a backbone of a .keras file or a preset is given of RGB 0-255; none: these "
        "themselves; default: as the preset has it, none for a file",
        choices=NORMALISATION_NAMES,
    )
    num_prefix_tokens: int | None = setting(
        None,
        "class and register tokens before those of the patches, of a backbone of a .keras file "
        "that gives tokens; default: as networks of KerasHub have it, else 0",
        at_least=0,
    )
    embedding_size: int | None = setting(
        None,
        "dimensions of the embedding; default: 128 from scratch, else 512, or as many as there are "
        "pooled features if these are fewer, or if on a frozen backbone there are fewer training "
        "images than features (up to 2,048)",
        at_least=1,
    )
    freeze_backbone: bool = setting(
        False, "train the head only, on pooled features computed once and cached"
    )
    feature_views: int = setting(
        1,
        "with a frozen backbone: views of each training image whose features are cached; the first "
        "is the plain image, the others are augmented",
        at_least=1,
        read_with={"freeze_backbone": (True,)},
    )
    frozen_batch_norm: bool | None = setting(
        None,
        "batch normalisation keeps its running statistics (its scale and offset still train), as "
        "in the official recipe; default: yes with --weights, no for a network from scratch",
    )
    head_initializer: str | None = setting(
        None,
        "start of the head: pca (the principal axes of the training images' features, which lose "
        "least), whitened (directions in which images of one class differ are shrunk, then as "
        "pca), orthogonal or official (both at random); default: orthogonal from scratch, whitened "
        "when a pretrained network is fine-tuned, pca or whitened with a frozen backbone, as "
        "--tune finds",
        choices=("pca", "whitened", "orthogonal", "official"),
    )

    def __post_init__(self) -> None:
        check_group(self)
        if self.weights == "package":
            weights_package(self.backbone)
        check_backbone_name(self.backbone)
        if backbone_kind(self.backbone) == "name":
            for name, usual in (("normalisation", "auto"), ("num_prefix_tokens", None)):
                value = getattr(self, name)
                if value != usual:
                    raise ValueError(
                        f"Invalid value for {name}. Expected it unset with backbone="
                        f"{self.backbone}, of which it is known. Received: {value!r}"
                    )
        elif self.weights == "imagenet":
            raise ValueError(
                "Invalid value for weights. Expected unset, or a .weights.h5 file, with a backbone "
                f"that brings its own: backbone={self.backbone}. Received: {self.weights!r}"
            )

    @property
    def is_pretrained(self) -> bool:
        """Whether the backbone knows something before training."""
        return bool(self.weights) or backbone_kind(self.backbone) != "name"


@dataclass(frozen=True)
class LossSettings:
    """The loss, its options, and the class tree of hierarchical_triplet."""

    # the loss that the project is named after; docs/results.md compares them
    name: str = setting(
        "multi_similarity", "pair-based loss", flat_name="loss", choices=loss_names()
    )
    options: Mapping[str, Any] = setting(
        {}, "options of the loss by their names in Python", flat_name="loss_options"
    )
    tree_levels: int = setting(
        16,
        "hierarchical_triplet: levels of the class tree, which is rebuilt every epoch",
        at_least=1,
        read_with=_WITH_A_TREE,
    )
    tree_linkage: str = setting(
        "average",
        "hierarchical_triplet: which distance of two groups of classes decides",
        choices=("average", "single"),
        read_with=_WITH_A_TREE,
    )
    tree_margins: str = setting(
        # as published; first keeps a training from running after margins that grow with it
        "latest",
        "hierarchical_triplet: margins of the latest class tree, or of the first one for the whole "
        "training; batches of near classes follow the latest one in both cases",
        choices=("latest", "first"),
        read_with=_WITH_A_TREE,
    )

    def __post_init__(self) -> None:
        check_group(self)
        check_options(f"loss={self.name}", self.options, loss_options(self.name))


@dataclass(frozen=True)
class HdmlSettings:
    """Hardness-aware deep metric learning around the loss."""

    mode: str = setting(
        "off",
        "hardness-aware deep metric learning around the loss (docs/hdml.md): off, paper, or "
        "official, the authors' code where it differs",
        flat_name="hdml",
        choices=("off", "paper", "official"),
    )
    options: Mapping[str, Any] = setting(
        {},
        "options of keras_ms.hdml.model.HDML by their names in Python, and the learning rates of "
        "its generator and its classifier",
        flat_name="hdml_options",
    )

    def __post_init__(self) -> None:
        check_group(self)
        declared = () if self.mode == "off" else hdml_options()
        check_options(f"hdml={self.mode}", self.options, declared)
        for name, value in self.options.items():
            if name.endswith("_learning_rate") and not value > 0:
                raise ValueError(
                    f"Invalid value for hdml.{name}. Expected above 0. Received: {value!r}"
                )
