"""Settings of fine-tuning: what may stand together, what would not be read, what follows."""

import pytest

from keras_ms.run.optimizer import check_schedule, learning_rate_schedule
from keras_ms.run.settings import Settings

FINETUNED = {"weights": "some.weights.h5"}


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"coupled_l2": 1e-4, "weight_decay": 0.1}, "weight_decay. Expected 0 with coupled_l2"),
        ({"lora_rank": 4, "freeze_blocks": 2}, "freeze_blocks. Expected 0 with lora_rank=4"),
        ({"warmup_steps": 300}, "warmup_steps. Expected less than steps=300"),
        ({"ema": 0.999}, r"ema. Expected at most 0.9967, 1 - 1 / steps"),
        ({"ema": 1.0}, "ema. Expected at least 0 and below 1"),
        ({"ema": 0.9, "devices": 2}, "ema. Expected 0 with devices=2"),
        ({"clip_norm": 1.0, "devices": 2}, "clip_norm. Expected 0 with devices=2"),
        ({"ema": 0.9, "hdml": "paper"}, "ema. Expected it unset with hdml=paper"),
        ({"lora_rank": 4, "hdml": "paper"}, "lora_rank. Expected it unset with hdml=paper"),
        ({"layer_decay": 0.0}, "layer_decay. Expected above 0"),
        ({"layer_decay": 1.1}, "layer_decay. Expected above 0 and at most 1"),
        ({"freeze_backbone": True, "layer_decay": 0.8}, "layer_decay. Expected it unset"),
        ({"freeze_backbone": True, "freeze_blocks": 1}, "freeze_blocks. Expected it unset"),
        ({"freeze_backbone": True, "lora_rank": 1}, "lora_rank. Expected it unset"),
        (
            {"freeze_backbone": True, "gradient_checkpointing": True},
            "gradient_checkpointing. Expected it unset",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(given, expected):
    with pytest.raises(ValueError, match=f"Invalid value for {expected}"):
        Settings.from_values(**FINETUNED, **given)


def test_the_backbone_has_a_rate_of_its_own_only_where_nothing_else_says_how_much():
    def rate(**given):
        return Settings.from_values(**FINETUNED, **given).training.backbone_learning_rate

    assert rate() == 1e-4
    assert rate(layer_decay=0.75) is None and rate(lora_rank=8) is None
    assert rate(layer_decay=0.75, backbone_learning_rate=1e-6) == 1e-6


def test_a_warm_up_is_part_of_every_schedule_and_stage():
    for schedule in ("cosine", "step", "constant"):
        settings = Settings.from_values(steps=40, warmup_steps=4, schedule=schedule)
        rate = learning_rate_schedule(settings, 1.0, stages=2)
        assert float(rate(0)) == float(rate(20)) == pytest.approx(0.25)
        check_schedule(settings, stages=2)
        with pytest.raises(ValueError, match="warmup_steps. Expected less than 4"):
            check_schedule(settings, stages=10)
    without = learning_rate_schedule(Settings.from_values(schedule="constant"), 0.5, stages=2)
    assert without == 0.5
