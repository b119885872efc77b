"""A function whose gradient is a formula of its own, and whose second derivative is that formula's.

Two forms of the gradient serve two ends. The one that every step takes may use what the forward
pass has found and run in a compiled program; nothing of it is differentiated. The other is a plain
function of the argument, and is computed only where somebody differentiates the gradient.
"""

from collections.abc import Callable

import keras
from keras import ops

from keras_ms.arguments import Tensor


def in_closed_form(
    function: Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]],
    argument: Tensor,
    differentiable_gradient: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The losses that `function` gives, differentiated by the gradient it gives.

    Args:
        function: `argument -> (losses, upstream -> gradient)`.
        argument: tensor.
        differentiable_gradient: `(argument, upstream) -> gradient`, the same gradient as a
            differentiable function of both.

    Returns:
        The losses. Derivatives of every order are right.

    Raises:
        ValueError: a derivative taken forwards by an accumulator inside a tf.function, where
            TensorFlow would pass by the formula and give 0. JAX raises an error of its own for a
            derivative of the losses forwards; forwards over backwards (jax.hessian) is right.
    """
    _refuse_forwards_in_a_graph(argument)

    @ops.custom_gradient
    def losses_of(argument):
        # or TensorFlow prepares to differentiate the inside as well
        losses, gradient = function(ops.stop_gradient(argument))

        # TensorFlow and JAX call grad(upstream), torch grad(argument, upstream=...)
        def grad(first, upstream=None):
            given = (argument, first) if upstream is None else (first, upstream)
            return _of_any_order(gradient, differentiable_gradient, *given)

        return losses, grad

    return losses_of(argument)


def _of_any_order(gradient, differentiable_gradient, argument, upstream):
    if keras.backend.backend() == "jax":
        # compiled, what both passes compute is computed once
        return differentiable_gradient(argument, upstream)
    if keras.backend.backend() == "torch":
        import torch

        # torch tells by this whether the gradient will be differentiated
        again = torch.is_grad_enabled()
        return differentiable_gradient(argument, upstream) if again else gradient(upstream)
    import tensorflow as tf

    @tf.custom_gradient
    def gradient_of(argument, upstream):
        def second(*changes):
            # not a tape: an accumulator of forward derivatives does not see what happens on it
            def pulled_back(argument, upstream, change):
                value = differentiable_gradient(argument, upstream)
                return tf.gradients(
                    value,
                    [argument, upstream],
                    change,
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )

            given = argument, upstream, *changes
            traced = tf.function(pulled_back, autograph=False)
            return traced.get_concrete_function(*map(tf.TensorSpec.from_tensor, given))(*given)

        return gradient(tf.stop_gradient(upstream)), second

    return gradient_of(argument, upstream)


def _refuse_forwards_in_a_graph(argument):
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if tf.executing_eagerly():
        return
    # there is no public way to ask
    from tensorflow.python.eager import forwardprop_util

    if forwardprop_util.pack_tangents([argument]).tangents:
        raise ValueError(
            "The losses of keras_ms have their gradient as a formula, which a "
            "tf.autodiff.ForwardAccumulator inside a tf.function does not see. Put the accumulator "
            "around the call of the tf.function, or take two tf.GradientTapes"
        )
