"""What a run says where nothing is left to learn from."""

import warnings

from keras_ms.run.told_zero_loss import TellZeroLoss


def test_a_line_once_without_a_place_in_the_source():
    lines = []
    callback = TellZeroLoss(lines.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.on_epoch_end(0, {"loss": 0.3, "mined_anchors": 0.8})
        assert lines == []
        for epoch in (1, 2):
            callback.on_epoch_end(epoch, {"loss": 0.0, "mined_anchors": 0.0})
        assert len(lines) == 1 and lines[0].startswith("Nothing is left to learn")
        assert "balanced_batches" not in lines[0] and ".py" not in lines[0]
        callback.on_epoch_end(3, {"loss": float("nan"), "mined_anchors": 0.0})
    assert "the loss was nan" in lines[1]
