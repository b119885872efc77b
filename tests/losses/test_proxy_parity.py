"""Our proxy losses beside pytorch-metric-learning's: value and both gradients, on frozen values."""

import numpy as np
import pytest
import tensorflow as tf
from peers import PEER, batch, each_batch

from keras_ms.losses.proxies import Proxies, ProxyAnchorLoss, ProxyNCALoss


def image_losses(loss, case, proxies, weights):
    """Every image's loss, and the gradients of their weighted sum: embeddings', proxies'."""
    embeddings, layer = tf.constant(case.embeddings), Proxies(len(proxies), dtype="float64")
    layer.build(embeddings.shape)
    layer.proxies.assign(proxies)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        values = loss(case.labels, layer(embeddings))
        weighted = tf.reduce_sum(values * weights)
    return values.numpy(), tape.gradient(weighted, [embeddings, layer.proxies.value])


def assert_gradients(gradients, key):
    for own, kind in zip(gradients, ("gradient", "proxy_gradient")):
        expected = PEER[f"{key}/{kind}"]
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@each_batch
def test_proxy_nca(name):
    """The peer's denominator holds the own proxy too, the paper's and ours does not. So its loss
    is log(1 + e^L) of our L, and its gradient sigmoid(L) times ours; mean over the images."""
    case, loss = batch(name), ProxyNCALoss(reduction=None, dtype="float64")
    proxies = PEER["proxy_nca/proxies"]
    values, _ = image_losses(loss, case, proxies, 1.0)
    expected = np.log1p(np.exp(values)).mean()
    assert expected == pytest.approx(float(PEER[f"proxy_nca/{name}/value"]), rel=1e-6)
    weights = 1 / (1 + np.exp(-values)) / len(values)
    assert_gradients(image_losses(loss, case, proxies, weights)[1], f"proxy_nca/{name}")


@each_batch
def test_proxy_anchor(name):
    """Both as in the paper; our images' losses have its value as their mean."""
    case, peer = batch(name), "proxy_anchor"
    settings = {setting: float(PEER[f"{peer}/{setting}"]) for setting in ("alpha", "margin")}
    loss = ProxyAnchorLoss(**settings, reduction=None, dtype="float64")
    values, gradients = image_losses(loss, case, PEER[f"{peer}/proxies"], 1 / len(case.labels))
    assert values.mean() == pytest.approx(float(PEER[f"{peer}/{name}/value"]), rel=1e-6)
    assert_gradients(gradients, f"{peer}/{name}")
