"""A backbone with a head on it as something that learns: forward, backward, update, and its whole state."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backtalk.learn.checkpoints import Arrays
from backtalk.learn.flow import tf
from backtalk.learn.folding import fold_norms
from backtalk.recipes import Recipe


class Learner:
    """Batch norms run on their stored statistics and dropout is off, so a step has no hidden state."""

    def __init__(self, model: Any, classes: int, recipe: Recipe):
        """The head is all zeros until `put_head` or `restore` gives one."""
        import keras

        self._net = fold_norms(model)
        self._smoothing = recipe.label_smoothing
        blank = np.zeros((model.output_shape[-1], classes), np.float32)
        self._kernel = keras.Variable(blank, name="head_kernel")
        self._bias = keras.Variable(blank[0], name="head_bias")
        self._learned = [*_unfreeze(model, recipe.unfreeze), self._kernel, self._bias]
        self._optimizer = _make_optimizer(recipe)
        self._optimizer.build(self._learned)
        size = model.input_shape[1]
        images = tf.TensorSpec([None, size, size, 3], tf.uint8)
        floats = tf.TensorSpec([None, classes], tf.float32), tf.TensorSpec([None], tf.float32)
        self._step = tf.function(self._learn, input_signature=[images, *floats])
        self._embed = tf.function(lambda x: self._net(x, training=False), input_signature=[images])

    def put_head(self, weights: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        """`weights` (C, D) and `bias` (C,): the head that was fitted first."""
        self._kernel.assign(weights.T)
        self._bias.assign(bias)

    def learn(self, images: Any, targets: Any, weights: Any, rate: float) -> float:
        """One step at this learning rate; the loss before it, NaN where it went astray."""
        self._optimizer.learning_rate = rate
        return float(self._step(images, targets, weights))

    def _learn(self, images: Any, targets: Any, weights: Any) -> Any:
        classes = tf.cast(tf.shape(targets)[1], tf.float32)
        soft = targets * (1 - self._smoothing) + self._smoothing / classes
        with tf.GradientTape() as tape:
            embedding = self._net(images, training=False)
            logits = tf.linalg.matmul(embedding, self._kernel.value) + self._bias.value
            losses = tf.nn.softmax_cross_entropy_with_logits(soft, logits)
            loss = tf.reduce_mean(losses * weights)
        slopes = tape.gradient(loss, [v.value for v in self._learned])
        self._optimizer.apply(slopes, self._learned)
        return loss

    def embed(self, images: Any) -> NDArray[np.float32]:
        """(B, S, S, 3) uint8 → (B, D) float32."""
        found: NDArray[np.float32] = self._embed(images).numpy()
        return found

    def logits(self, images: Any) -> NDArray[np.float32]:
        """(B, S, S, 3) uint8 → (B, C) float32."""
        found: NDArray[np.float32] = self.embed(images) @ self._kernel.numpy() + self._bias.numpy()
        return found

    def weights(self) -> Arrays:
        """A copy of all that is learned; the rest of the net never changes."""
        return {f"learned/{i:04d}": np.array(v.numpy()) for i, v in enumerate(self._learned)}

    def state(self) -> Arrays:
        """Weights, and the optimiser's own numbers, its step among them."""
        optimizer = enumerate(self._optimizer.variables)
        return self.weights() | {f"optimizer/{i:04d}": np.array(v.numpy()) for i, v in optimizer}

    def restore(self, arrays: Arrays) -> None:
        """Take over what `weights` or `state` gave."""
        for i, variable in enumerate(self._learned):
            variable.assign(arrays[f"learned/{i:04d}"])
        for i, variable in enumerate(self._optimizer.variables):
            if f"optimizer/{i:04d}" in arrays:
                variable.assign(arrays[f"optimizer/{i:04d}"])


def _unfreeze(model: Any, top: str | int) -> list[Any]:
    """The weights of all layers, or of the last so many that have any."""
    layers = [layer for layer in model.layers if layer.trainable_variables]
    kept = layers if isinstance(top, str) else layers[len(layers) - min(top, len(layers)) :]
    return [variable for layer in kept for variable in layer.trainable_variables]


def _make_optimizer(recipe: Recipe) -> Any:
    import keras

    common = {"learning_rate": recipe.learning_rate, "global_clipnorm": recipe.clip_norm}
    decay = recipe.weight_decay or None
    if recipe.optimizer == "sgd":
        made = keras.optimizers.SGD(momentum=recipe.momentum, nesterov=True, weight_decay=decay, **common)
    else:
        made = keras.optimizers.AdamW(weight_decay=recipe.weight_decay, **common)
    if decay:
        made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return made


def rate_at(step: int, steps: int, per_epoch: int, recipe: Recipe) -> float:
    """Learning rate of a step: up in a line, then down along a cosine to nothing."""
    warm = min(steps, round(recipe.warmup_epochs * per_epoch))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return float(recipe.learning_rate * (1 + np.cos(np.pi * share)) / 2)
