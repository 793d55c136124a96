"""The training loop: one, explicit, for every model trained by gradients."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lirdrec.errors import ConfigError, RunFolderError, TrainingError
from lirdrec.models.base import Model
from lirdrec.ranking.scorers import Scorer
from lirdrec.training.allocator import keep_freed_memory
from lirdrec.training.checkpoint import Checkpoint, CheckpointStore, optimizer_tensors, restore_optimizer
from lirdrec.training.config import TrainConfig
from lirdrec.training.sampling import TripleSampler

log = logging.getLogger(__name__)

Validate = Callable[[Scorer], dict[str, float]]


class StopTraining(Exception):
    """Raised by a callback to end training after the epoch."""


class Callback:
    """Told of what happens; the base class does nothing. Progress bars and history files are callbacks.

    `on_train_begin` and `on_epoch_end` may raise `StopTraining`: training ends there, with the best parameters so far.
    """

    def on_train_begin(self, history: list[dict[str, Any]], n_steps: int) -> None:
        """Training begins, or goes on after `history`; an epoch has `n_steps` steps."""

    def on_step_end(self, epoch: int, step: int) -> None:
        """Step `step` (from 1) of an epoch has ended."""

    def on_epoch_end(self, line: dict[str, Any]) -> None:
        """An epoch has ended with this line of history."""


@dataclass
class TrainResult:
    """What `train` found. The model holds the best parameters."""

    best_epoch: int
    best_value: float
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = "epochs"  # "epochs", "patience", "watcher" or "interrupted"


def train(
    model: Model,
    config: TrainConfig,
    validate: Validate | None,
    *,
    store: CheckpointStore | None = None,
    resume: bool = False,
    callbacks: tuple[Callback, ...] = (),
) -> TrainResult:
    """Train `model` in place until the validation metric stops rising; it ends with its best parameters.

    Args:
        model: built from its inputs.
        config: options.
        validate: figures of a scorer on validation, `config.metric` among them; None: no validation, last is best.
        store: where checkpoints go; None: nowhere.
        resume: go on from the store's checkpoint if there is one. The result has the bits of a run never stopped
            (on the CPU with the same number of threads).
        callbacks: told of every step and epoch.

    Raises:
        TrainingError: the loss is not a number any more; checkpoints written before stay.
        ConfigError: `config.metric` is not among the figures of `validate`.
        RunFolderError: the checkpoint is damaged or of another training, or the disk is full.
    """
    keep_freed_memory()
    sampler = TripleSampler(model.inputs.users, model.inputs.items, model.inputs.n_items, config.seed, config.order)
    if len(sampler) == 0:
        raise TrainingError("there is nothing to train on: every user took every item, or there is no training pair")
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(names, lr=config.learning_rate, fused=model.inputs.device.type in ("cpu", "cuda"))
    result = TrainResult(0, -math.inf)
    best: dict[str, Tensor] = {}
    found = store.load() if store is not None and resume else None
    if found is not None:
        try:
            model.load_state_dict(_part(found.tensors, "model."))
        except RuntimeError:
            assert store is not None
            raise RunFolderError(
                f"{store.folder}: the checkpoint does not fit this model; it may come from another version of lirdrec: "
                "train anew"
            ) from None
        restore_optimizer(optimizer, names, _part(found.tensors, "optimizer."))
        best, result = found.best, TrainResult(**{k: found.facts[k] for k in ("best_epoch", "best_value", "history")})
        log.info("resumed after epoch %d", len(result.history))
    n_steps = math.ceil(len(sampler) / config.batch_size)
    enough = any([_stops(callback.on_train_begin, result.history, n_steps) for callback in callbacks])

    with _interruptible() as interrupted:
        for epoch in range(len(result.history) + 1, config.epochs + 1):
            if enough:
                result.stopped = "watcher"
                break
            if _waited(result) > config.patience:
                result.stopped = "patience"
                break
            started = time.perf_counter()
            _set_learning_rate(optimizer, config, epoch)
            terms = _run_epoch(model, optimizer, sampler, config, epoch, callbacks)
            line: dict[str, Any] = {"epoch": epoch, **terms, "seconds": round(time.perf_counter() - started, 4)}
            if not math.isfinite(terms["loss"]):
                raise TrainingError(
                    f"the loss is not a number any more in epoch {epoch}: lower learning_rate "
                    f"(now {config.learning_rate:g}) or set gradient_clip, for instance to 1"
                )
            last = epoch == config.epochs
            if validate is None or epoch % config.evaluate_every == 0 or last:
                line["valid"] = validate(model.scorer()) if validate is not None else {}
                value = _value(line["valid"], config.metric) if validate is not None else float(epoch)
                if value > result.best_value:
                    result.best_epoch, result.best_value = epoch, value
                    best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                line["seconds_with_validation"] = round(time.perf_counter() - started, 4)
            result.history.append(line)
            enough = any([_stops(callback.on_epoch_end, line) for callback in callbacks])  # all of them are told
            asked = interrupted()
            stopping = asked or enough or last or _waited(result) > config.patience
            if store is not None and (epoch % config.checkpoint_every == 0 or stopping):
                store.save(_checkpoint(model, optimizer, names, result, best))
            if asked:
                result.stopped = "interrupted"
                break
    if best:
        model.load_state_dict(best)
    log.info("best %s %.4f in epoch %d of %d", config.metric, result.best_value, result.best_epoch, len(result.history))
    return result


def _stops(tell: Callable[..., None], *what: Any) -> bool:
    try:
        tell(*what)
    except StopTraining:
        return True
    return False


def _run_epoch(
    model: Model,
    optimizer: torch.optim.Optimizer,
    sampler: TripleSampler,
    config: TrainConfig,
    epoch: int,
    callbacks: tuple[Callback, ...],
) -> dict[str, float]:
    """One pass over the training pairs; the mean of each term of the loss over the pairs."""
    device = model.inputs.device
    model.train()
    model.start_epoch(epoch)
    triples = [part.to(device) for part in sampler.epoch(epoch)]
    totals: dict[str, Tensor] = {}
    batches = zip(*(part.split(config.batch_size) for part in triples), strict=True)
    for step, (users, positives, negatives) in enumerate(batches, start=1):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            terms = model.loss(users, positives, negatives)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        for name, term in terms.items():
            weighted = term.detach().double() * len(users)
            totals[name] = totals[name] + weighted if name in totals else weighted
        for callback in callbacks:
            callback.on_step_end(epoch, step)
    model.eval()
    return {name: total.item() / len(sampler) for name, total in totals.items()}


def _set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: int) -> None:
    rate = config.learning_rate
    if epoch <= config.warmup_epochs:
        rate *= epoch / (config.warmup_epochs + 1)
    elif config.schedule == "cosine":
        done = (epoch - 1 - config.warmup_epochs) / max(1, config.epochs - config.warmup_epochs)
        rate *= 0.5 * (1 + math.cos(math.pi * done))
    elif config.schedule == "exponential":
        rate *= config.decay ** ((epoch - 1 - config.warmup_epochs) / config.decay_epochs)
    for group in optimizer.param_groups:
        group["lr"] = rate


def _waited(result: TrainResult) -> int:
    """Validations in a row without a better metric."""
    return sum("valid" in line and line["epoch"] > result.best_epoch for line in result.history)


def _value(figures: dict[str, float], metric: str) -> float:
    if metric not in figures:
        raise ConfigError(f"metric '{metric}' is not among the validation figures: {', '.join(figures)}")
    return figures[metric]


def _checkpoint(
    model: Model,
    optimizer: torch.optim.Optimizer,
    names: dict[Tensor, str],
    result: TrainResult,
    best: dict[str, Tensor],
) -> Checkpoint:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"optimizer.{key}": value for key, value in optimizer_tensors(optimizer, names).items()}
    facts = {"best_epoch": result.best_epoch, "best_value": result.best_value, "history": result.history}
    return Checkpoint(tensors, facts, best)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C only asks the loop to stop after the epoch; a second one is the usual KeyboardInterrupt."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        log.warning("stopping after this epoch with the best model so far; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
