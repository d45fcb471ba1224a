"""Compares the 2018 article's recipes in Keras 3 (torch backend) and in simrec's preset `article`.

    pip install keras
    python tests/benchmarks/article.py                                  # all four, 3 epochs each
    python tests/benchmarks/article.py --only plain --rounds 3          # in turns, for a machine whose speed drifts

prints, for both, the seconds per epoch (the median, without each round's first epoch, validation included) and the
validation loss after the last. Both begin with the same weights, and the denoising ones see the same noise; the order
of the batches differs.

    python tests/benchmarks/article.py --quality

measures how long the default encoder takes to reach the precision of the article's finished plain and VAE networks: it
trains the encoder again and tests its codes at several steps. The finished networks come from
`tests/benchmarks/table.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import platformdirs
import torch

from simrec import evaluation, host
from simrec.contracts import EncoderSpec, History, ImageSpec, Progress
from simrec.index import Index
from simrec.learning.networks import salt_and_pepper
from simrec.sources import fashion_mnist
from simrec.sources.load import Pictures, load

NAMES = ("plain", "sparse", "denoising", "vae")
BATCH = 2048
SEED = 0
MOMENTS = (15, 30, 45, 60, 90, 118, 180, 236, 354, 472)
"""Steps in the default encoder's training, 118 per epoch, at which `--quality` tests its codes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, action="append")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--runs", type=Path, default=platformdirs.user_cache_path("simrec") / "table")
    given = parser.parse_args()
    train = load("fashion-mnist", ImageSpec(), notice=print)
    test = load("fashion-mnist:test", ImageSpec(), notice=print)
    if given.quality:
        quality(given.runs, train, test)
        return
    print("| network | Keras s/epoch | simrec s/epoch | ratio | Keras loss | simrec loss | difference |")
    print("|---|---|---|---|---|---|---|")
    for name in given.only or NAMES:
        seconds: tuple[list[float], list[float]] = ([], [])
        losses = [0.0, 0.0]
        for _ in range(given.rounds):
            for side, run in enumerate((keras_run, simrec_run)):
                epochs, losses[side] = run(name, given.epochs, train, test)
                seconds[side].extend(epochs[1:] or epochs)  # the first warms up
        theirs, ours = map(statistics.median, seconds)
        print(
            f"| {name} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} "
            f"| {losses[0]:.5g} | {losses[1]:.5g} | {losses[1] / losses[0] - 1:+.1%} |",
            flush=True,
        )


def article(name: str, **changes: Any) -> Any:
    """A fresh encoder with the preset `article`, its weights drawn as `fit` draws them."""
    from dataclasses import replace

    kind = host.encoder_class(host.discover().find(EncoderSpec, name))
    torch.manual_seed(SEED)
    return kind(replace(kind.presets["article"], **changes))


def simrec_run(name: str, epochs: int, train: Pictures, test: Pictures) -> tuple[list[float], float]:
    """The seconds of each epoch, and the last validation loss."""
    history: History = article(name, epochs=epochs).fit(train.images, validation=test.images, seed=SEED, device="cpu")
    return [epoch.seconds for epoch in history.epochs], history.epochs[-1].validation_loss


def keras_run(name: str, epochs: int, train: Pictures, test: Pictures) -> tuple[list[float], float]:
    """The seconds of each epoch, and the last validation loss."""
    import keras

    keras.utils.set_random_seed(SEED)
    x, held_out = (p.images.astype(np.float32) / 255 for p in (train, test))
    if name != "denoising":
        x, held_out = x.reshape(len(x), -1), held_out.reshape(len(held_out), -1)
    fed, shown = x, held_out
    if name == "denoising":
        generator = torch.Generator().manual_seed(SEED)
        fed, shown = (noisy(images, generator) for images in (x, held_out))
    model = {"plain": mlp, "sparse": sparse, "denoising": conv, "vae": vae}[name]()
    begin_alike(model, article(name))
    timer = Timer()
    history = model.fit(
        fed, x, batch_size=BATCH, epochs=epochs, validation_data=(shown, held_out), validation_batch_size=BATCH,
        verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=timer.lap, on_train_end=timer.lap)],
    )  # fmt: skip
    return timer.laps(), history.history["val_loss"][-1]


class Timer:
    """Measures the seconds between calls."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def lap(self, *_: Any) -> None:
        """Call it when an epoch begins, and at the end."""
        self.times.append(time.perf_counter())

    def laps(self) -> list[float]:
        """The seconds of each epoch."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def noisy(images: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Pictures (n, h, w, 1) in 0..1 with salt and pepper on a fifth of the pixels."""
    return (
        salt_and_pepper(torch.tensor(images).permute(0, 3, 1, 2), 0.2, generator, soft=True).permute(0, 2, 3, 1).numpy()
    )


def begin_alike(model: Any, encoder: Any) -> None:
    """Gives a Keras model the weights of a fresh simrec encoder, layer by layer."""
    layers = [m for m in encoder.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    weights: list[np.ndarray] = []
    for layer in layers:
        weight = layer.weight.detach()
        weights += [(weight.T if weight.ndim == 2 else weight.permute(2, 3, 1, 0)).numpy(), layer.bias.detach().numpy()]
    model.set_weights(weights)


def adam() -> Any:
    import keras

    return keras.optimizers.Adam(learning_rate=1e-3, epsilon=1e-7)


def mlp(penalty: float = 0.0) -> Any:
    """784-2000-500-500-10-500-500-2000-784."""
    import keras
    from keras import layers

    def penalised() -> Any:
        # Keras 3 divides an activity penalty by the batch; the Keras of 2018 summed it.
        return keras.regularizers.L1(penalty * BATCH) if penalty else None

    model = keras.Sequential([
        keras.Input((784,)),
        layers.Dense(2000, activation="relu"),
        layers.Dense(500, activation="relu", activity_regularizer=penalised()),
        layers.Dense(500, activation="relu", activity_regularizer=penalised()),
        layers.Dense(10, activation="sigmoid", activity_regularizer=penalised()),
        layers.Dense(500, activation="relu"),
        layers.Dense(500, activation="relu"),
        layers.Dense(2000, activation="relu"),
        layers.Dense(784),
    ])  # fmt: skip
    model.compile(adam(), "mse")
    return model


def sparse() -> Any:
    """The plain network with the activity penalty."""
    return mlp(10e-10)


def conv() -> Any:
    """Convolutions with max pooling down to 4 x 4 x 16, and with upsampling back."""
    import keras
    from keras import layers

    def convolution(channels: int, **more: Any) -> Any:
        return layers.Conv2D(channels, 3, **{"activation": "relu", "padding": "same", **more})

    model = keras.Sequential([
        keras.Input((28, 28, 1)),
        convolution(64), layers.MaxPooling2D(padding="same"),
        convolution(32), layers.MaxPooling2D(padding="same"),
        convolution(16), layers.MaxPooling2D(padding="same"),
        convolution(16), layers.UpSampling2D(),
        convolution(32), layers.UpSampling2D(),
        convolution(64, padding="valid"), layers.UpSampling2D(),
        convolution(1, activation=None),
    ])  # fmt: skip
    model.compile(adam(), "mse")
    return model


def vae() -> Any:
    """784-500, mean and log-variance of 10, 10-500-784."""
    import keras
    from keras import layers, ops

    class Sampled(layers.Layer):  # type: ignore[misc]
        """Samples from the distribution, and adds its KL divergence to the batch's loss."""

        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(SEED)

        def call(self, inputs: Any) -> Any:
            mean, log_variance = inputs
            divergence = ops.sum(ops.square(mean) + ops.exp(log_variance) - 1 - log_variance, axis=1) / 2
            self.add_loss(ops.mean(divergence))
            return mean + keras.random.normal(ops.shape(mean), seed=self.seeds) * ops.exp(log_variance / 2)

    def summed(target: Any, rebuilt: Any) -> Any:
        return 784 * keras.losses.binary_crossentropy(target, rebuilt)

    picture = keras.Input((784,))
    hidden = layers.Dense(500, activation="relu")(picture)
    code = Sampled()([layers.Dense(10)(hidden), layers.Dense(10)(hidden)])
    rebuilt = layers.Dense(784, activation="sigmoid")(layers.Dense(500, activation="relu")(code))
    model = keras.Model(picture, rebuilt)
    model.compile(adam(), summed)
    return model


def quality(runs: Path, train: Pictures, test: Pictures) -> None:
    """Measures when the default encoder finds as well as the article's finished networks."""
    import json

    goals = {}
    for name in ("plain", "vae"):
        figures = json.loads((runs / f"article-{name}-0.json").read_bytes())["rows"][0]
        epochs = json.loads(next((runs / f"article-{name}-0" / "gens").glob("*/encoder/history.json")).read_bytes())
        lasted = [epoch["seconds"] for epoch in epochs["epochs"]]
        # An epoch's time on an idle machine: hours of training seldom have the machine to themselves.
        goals[name] = figures["P@10"], len(lasted) * float(np.quantile(lasted, 0.1))
        print(f"The article's {name} ends at P@10 {goals[name][0]:.4f} after {goals[name][1]:.0f} s.")

    encoder, moments = snapshots(train, test)
    numbers = {label: i for i, label in enumerate(fashion_mnist.LABELS)}
    labels, asked = (np.array([numbers[label] for label in p.labels]) for p in (train, test))
    exam = evaluation.Exam(asked, labels, tuple(fashion_mnist.LABELS), leave_one_out=False)
    reached: set[str] = set()
    for seconds, step, state in moments:
        encoder.load_state_dict(state)
        begun = time.perf_counter()
        encoder.finish(torch.from_numpy(encoder.encode(train.images)))
        seconds += time.perf_counter() - begun
        precision = exam.figures(Index(encoder.encode(train.images), "cosine"), encoder.encode(test.images))["P@10"]
        print(f"  step {step}, {seconds:.1f} s: P@10 {precision:.4f}", flush=True)
        for name in set(goals) - reached:
            if precision >= goals[name][0]:
                reached.add(name)
                print(f"  as good as the article's {name} in {seconds / goals[name][1]:.1%} of its time")
        if reached == set(goals):
            break


def snapshots(train: Pictures, test: Pictures) -> tuple[Any, list[tuple[float, int, dict[str, Any]]]]:
    """Trains the default plain encoder; also returns seconds, steps and weights at some steps, before whitening.

    The seconds count from the beginning of `fit`, without the time for copying weights.
    """
    kind = host.encoder_class(host.discover().find(EncoderSpec, "plain"))
    encoder = kind(kind.presets["default"])
    taken: list[tuple[float, int, dict[str, Any]]] = []
    pauses = 0.0

    class EnoughError(Exception):
        """Ends the training after the last of these steps."""

    def look(at: Progress) -> None:
        nonlocal pauses
        begun = time.perf_counter()
        step = (at.epoch - 1) * at.steps + at.step
        if step in MOMENTS:
            taken.append((begun - started - pauses, step, copy.deepcopy(encoder.state_dict())))
            pauses += time.perf_counter() - begun
        if step >= MOMENTS[-1]:
            raise EnoughError

    started = time.perf_counter()
    with contextlib.suppress(EnoughError):
        encoder.fit(train.images, validation=test.images, seed=SEED, device="cpu", progress=look)
    encoder.to(memory_format=torch.contiguous_format)
    return encoder, taken


if __name__ == "__main__":
    main()
