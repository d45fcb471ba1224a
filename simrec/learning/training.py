"""The training loop: the whole data set as one tensor on the device, one schedule, early stopping if wanted."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from simrec.contracts import Epoch, History, Images, Progress
from simrec.errors import TrainingError

LEAST_STEPS = 24
"""Minimum number of steps per epoch: a folder of 500 pictures must not get a single step per epoch ..."""

SMALLEST_BATCH = 32
"""... but a batch stays large enough for batch norm."""

SHOWN = 2000
"""About how many pictures the validation loss is measured on if it doesn't steer the training."""

REPORTS = 10
"""How often per epoch to read the loss from a GPU, which has to wait for that. On a CPU it is read at every step."""


def pick_device(name: str) -> torch.device:
    """The device with that name; "auto" is CUDA, else Apple's MPS, else the CPU. Raises TrainingError if missing."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if available[d]))
    if not available.get(name, False):
        raise TrainingError(f"no {name} device on this machine: use --device auto or cpu")
    return torch.device(name)


def run(
    model: Any,
    images: Images,
    validation: Images,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[Progress], None],
    stop: Callable[[], bool],
) -> History:
    """Trains an Autoencoder in place on images (n, h, w, c) and leaves it on the CPU with the weights to keep.

    With early stopping, keeps the weights with the lowest validation loss. Without it, validation is only shown: keeps
    the last epoch's weights or, after an interruption, those with the lowest training loss.

    Raises TrainingError if there are fewer than two images, or if the loss is no longer finite.
    """
    if len(images) < 2:
        raise TrainingError(f"training needs at least 2 pictures, not {len(images)}")
    settings = model.settings
    generator = torch.Generator().manual_seed(seed)
    model.to(device=device, memory_format=torch.channels_last)
    learned = _to_tensor(images, device)
    model.prepare(learned)
    examples = model.examples(learned, generator)
    shown = validation if settings.patience else validation[:: max(1, len(validation) // SHOWN)]
    held_out = model.examples(_to_tensor(shown, device), generator)
    batch = min(settings.batch_size, max(SMALLEST_BATCH, len(images) // LEAST_STEPS))
    steps = min(math.ceil(len(images) / batch), len(images) // 2)  # batch norm needs two pictures per step
    at_once = model.micro_batch if model.micro_batch and device.type == "cpu" else batch
    descent = _Descent(model, examples, device, steps, at_once, *_optimizer(model, settings, steps))

    epochs: list[Epoch] = []
    best = _Best()
    ended: Literal["finished", "converged", "interrupted"] = "finished"
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        torch.manual_seed(seed + epoch)  # on all devices, so that an epoch's draws don't depend on the validation
        order = torch.randperm(len(images), generator=generator).to(device)
        last = epochs[-1].validation_loss if epochs else None

        def report(step: int, loss: float, epoch: int = epoch, last: float | None = last) -> None:
            progress(Progress(epoch, settings.epochs, step, steps, loss, last))

        mean, means = descent.epoch(order, torch.Generator(device).manual_seed(seed + epoch), report)
        validation_loss = _validate(model, held_out, at_once, seed)
        epochs.append(Epoch(epoch, mean, validation_loss, means, time.perf_counter() - started))
        if not (math.isfinite(mean) and math.isfinite(validation_loss)):
            raise TrainingError(f"the loss is no longer finite in epoch {epoch}: lower learning_rate with --set")
        best.take(epoch, validation_loss if settings.patience else mean, model)
        if stop():
            ended = "interrupted"
            break
        if settings.patience and epoch - best.epoch >= settings.patience:
            ended = "converged"
            break
    kept = len(epochs) if ended == "finished" and not settings.patience else best.restore(model)
    model.eval()
    model.to("cpu", memory_format=torch.contiguous_format)
    return History(tuple(epochs), kept, ended)


@dataclass
class _Best:
    """The epoch with the lowest loss so far, and its weights."""

    epoch: int = 0
    loss: float = float("inf")
    weights: dict[str, Tensor] = field(default_factory=dict)

    def take(self, epoch: int, loss: float, model: Any) -> None:
        """Keeps the model's weights if the loss is the lowest so far."""
        if loss < self.loss:
            self.epoch, self.loss, self.weights = epoch, loss, copy.deepcopy(model.state_dict())

    def restore(self, model: Any) -> int:
        """Gives the model those weights, if there are any; returns their epoch."""
        if self.weights:
            model.load_state_dict(self.weights)
        return self.epoch


@dataclass(frozen=True)
class _Descent:
    """Gradient descent of a model on examples, tensors of n rows. at_once: how many rows are computed together."""

    model: Any
    examples: tuple[Tensor, ...]
    device: torch.device
    steps: int
    at_once: int
    optimizer: torch.optim.Optimizer
    schedule: Any

    def epoch(
        self, order: Tensor, generator: torch.Generator, report: Callable[[int, float], None]
    ) -> tuple[float, dict[str, float]]:
        """One pass over the rows in that order; returns the mean loss and the means of its parts.

        report: called with the step and the mean loss so far.
        """
        self.model.train()
        summed, parts, seen = torch.zeros((), device=self.device), dict[str, Tensor](), 0
        report_every = 1 if self.device.type == "cpu" else max(1, self.steps // REPORTS)
        for step, rows in enumerate(order.tensor_split(self.steps), 1):
            self.optimizer.zero_grad(set_to_none=True)
            for some in torch.split(rows, self.at_once):
                loss, these = self._loss(some, generator)
                (loss * (len(some) / len(rows))).backward()  # type: ignore[no-untyped-call]
                summed += loss.detach() * len(some)
                for name, value in these.items():
                    parts[name] = parts.get(name, 0) + value * len(some)
            self.optimizer.step()
            self.schedule.step()
            seen += len(rows)
            if step % report_every == 0 or step == self.steps:
                report(step, float(summed) / seen)
        return float(summed) / len(order), {name: float(value) / len(order) for name, value in parts.items()}

    def _loss(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of some rows, with augmented pictures."""
        cuda = self.device.type == "cuda"
        pictures, *others = (_scaled(example[rows]) for example in self.examples)
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda and torch.cuda.is_bf16_supported()):
            result: tuple[Tensor, Mapping[str, Tensor]] = self.model.loss(
                self.model.augment(pictures, generator), *others
            )
        return result


def _optimizer(model: Any, settings: Any, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    rate, total = settings.learning_rate, settings.epochs * steps
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=settings.weight_decay, fused=True)
    else:  # with Keras's epsilon
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, eps=1e-7)
    if settings.schedule == "onecycle":
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=total + 1)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _validate(model: Any, examples: tuple[Tensor, ...], batch: int, seed: int) -> float:
    """Mean loss per image, with the same noise in every epoch."""
    model.eval()
    count, total = len(examples[0]), 0.0
    torch.manual_seed(seed)
    with torch.no_grad():
        for start in range(0, count, batch):
            some = [e[start : start + batch] for e in examples]
            total += model.loss(*map(_scaled, some))[0].item() * len(some[0])
    return total / max(1, count)


def _to_tensor(images: Images, device: torch.device) -> Tensor:
    """uint8 (n, h, w, c) to uint8 (n, c, h, w) on the device."""
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous().to(device)


def _scaled(batch: Tensor) -> Tensor:
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch
