"""The training loop of all models that are trained by gradients."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lirdrec.errors import ConfigError, RunFolderError, TrainingError
from lirdrec.models.base import Model
from lirdrec.ranking.sharded_scorer import Rankable
from lirdrec.training.callbacks import Callback, StopTraining
from lirdrec.training.checkpoint import Checkpoint, CheckpointStore, optimizer_tensors, restore_optimizer
from lirdrec.training.config import TrainConfig
from lirdrec.training.memory_allocator import keep_freed_memory
from lirdrec.training.sampling import Sampler, make_sampler
from lirdrec.wording import pluralize

log = logging.getLogger(__name__)

Validate = Callable[[Rankable], dict[str, float]]


@dataclass
class TrainResult:
    """The outcome of `train`: best epoch, its metric, history, reason of the end; the model has the parameters."""

    best_epoch: int
    best_value: float  # of the validation metric; without validation, the number of the epoch
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = "epochs"  # "epochs", "patience", "callback" or "interrupted"


def train(
    model: Model,
    config: TrainConfig,
    validate: Validate | None,
    *,
    store: CheckpointStore | None = None,
    resume: bool = False,
    callbacks: tuple[Callback, ...] = (),
) -> TrainResult:
    """Train `model` in place until the validation metric stops rising; then it has the parameters of its best epoch.

    The training also ends after `config.epochs`, after Ctrl-C, or if a callback requests it.

    Args:
        model: built from its inputs; with several ranks (processes), all of them call `train`.
        validate: function from a scorer to its metrics, `config.metric` included; None: the last epoch is the best.
        store: where checkpoints are written, or None.
        resume: continue from the store's checkpoint, if there is one; bit-identical on the CPU with equal threads.
        callbacks: called at the start, after every step and after every epoch.

    Raises:
        TrainingError: the loss is not finite (earlier checkpoints are kept), or there is nothing to train on.
        ConfigError: `validate` does not return `config.metric`.
        RunFolderError: the checkpoint is damaged or of another training, or cannot be written.
    """
    keep_freed_memory()
    sampler = make_sampler(model, config)
    training, ranks = _Training(model, config.resolved(len(model.inputs.users))), model.inputs.ranks
    if store is not None and resume:
        training.restore(store)
    result = training.result
    n_steps = sampler.n_steps(training.config.pairs_per_step(len(sampler)))
    stop_requested = ranks.any(any([_stops(c.on_train_begin, result.history, n_steps) for c in callbacks]))
    with interruptible() as interrupted:
        for epoch in range(len(result.history) + 1, config.epochs + 1):
            if stop_requested:
                result.stopped = "callback"
                break
            if _validations_without_gain(result) > config.patience:
                result.stopped = "patience"
                break
            started, is_last = time.perf_counter(), epoch == config.epochs
            line = training.run_epoch(sampler, epoch, callbacks)
            if validate is None or epoch % config.evaluate_every == 0 or is_last:
                training.validate(validate, line)
                line["seconds_with_validation"] = round(time.perf_counter() - started, 4)
            result.history.append(line)
            # a list, so that all callbacks are called
            stop_requested = ranks.any(any([_stops(callback.on_epoch_end, line) for callback in callbacks]))
            is_interrupted = ranks.any(interrupted())
            is_last |= is_interrupted or stop_requested or _validations_without_gain(result) > config.patience
            if store is not None and (epoch % config.checkpoint_every == 0 or is_last):
                store.save(training.checkpoint())
            if is_interrupted:
                result.stopped = "interrupted"
                break
    if training.best:
        model.load_state_dict(training.best)
    _log_end(result, None if validate is None else config.metric)
    return result


def _log_end(result: TrainResult, metric: str | None) -> None:
    """Log the best value of the validation metric; None without validation: log only the number of epochs."""
    n_epochs = len(result.history)
    if metric is not None and result.best_epoch:
        log.info("best %s %.4f in epoch %d of %d", metric, result.best_value, result.best_epoch, n_epochs)
    else:
        log.info("trained %s without a validation", pluralize(n_epochs, "epoch"))


def _stops(hook: Callable[..., None], *arguments: Any) -> bool:
    """Call a hook (a method of a callback), and return whether it raised `StopTraining`."""
    try:
        hook(*arguments)
    except StopTraining:
        return True
    return False


class _Training:
    """The state of one training: model, optimizer, result and best parameters."""

    def __init__(self, model: Model, config: TrainConfig):
        self.model, self.config = model, config
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        is_fused = model.inputs.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(self.names, lr=config.learning_rate, fused=is_fused)
        self.result = TrainResult(0, -math.inf)
        self.best: dict[str, Tensor] = {}

    def restore(self, store: CheckpointStore) -> None:
        """Set model, optimizer, result and best parameters to the store's checkpoint; do nothing without one."""
        checkpoint = store.load()
        if checkpoint is None:
            return
        try:
            self.model.load_state_dict(_without_prefix(checkpoint.tensors, "model."))
        except RuntimeError:
            raise RunFolderError(
                f"{store.folder}: the checkpoint does not fit this model; it may come from another version of lirdrec: "
                "train again from the start"
            ) from None
        restore_optimizer(self.optimizer, self.names, _without_prefix(checkpoint.tensors, "optimizer."))
        self.best = checkpoint.best
        self.result = TrainResult(**{key: checkpoint.facts[key] for key in ("best_epoch", "best_value", "history")})
        log.info("resumed after epoch %d", len(self.result.history))

    def checkpoint(self) -> Checkpoint:
        result = self.result
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        optimizer = optimizer_tensors(self.optimizer, self.names)
        tensors |= {f"optimizer.{key}": value for key, value in optimizer.items()}
        facts = {"best_epoch": result.best_epoch, "best_value": result.best_value, "history": result.history}
        return Checkpoint(tensors, facts, self.best)

    def run_epoch(self, sampler: Sampler, epoch: int, callbacks: tuple[Callback, ...]) -> dict[str, Any]:
        """Train for one epoch; return its history entry: the mean of each loss term over the pairs, and the seconds."""
        started, config = time.perf_counter(), self.config
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(config, epoch)
        terms = self._run_steps(sampler, epoch, callbacks)
        line: dict[str, Any] = {"epoch": epoch, **terms, "seconds": round(time.perf_counter() - started, 4)}
        if not math.isfinite(terms["loss"]):
            raise TrainingError(
                f"the loss became NaN or infinite in epoch {epoch}: lower learning_rate "
                f"(now {config.learning_rate:g}) or set gradient_clip, for instance to 1"
            )
        return line

    def _run_steps(self, sampler: Sampler, epoch: int, callbacks: tuple[Callback, ...]) -> dict[str, float]:
        model, config, device = self.model, self.config, self.model.inputs.device
        model.train()
        model.start_epoch(epoch)
        totals: dict[str, Tensor] = {}
        batches = sampler.batches(epoch, config.pairs_per_step(len(sampler)), device)
        for step, (n_pairs, batch) in enumerate(batches, start=1):
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                terms = model.loss(*batch)
            self.optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            sum_gradients(model)
            if config.gradient_clip is not None:
                clip_gradient(model, config.gradient_clip)
            self.optimizer.step()
            for name, term in terms.items():
                weighted = term.detach().double() * n_pairs
                totals[name] = totals[name] + weighted if name in totals else weighted
            for callback in callbacks:
                callback.on_step_end(epoch, step)
        model.eval()
        ranks = model.inputs.ranks
        return {name: ranks.sum_(total).item() / len(sampler) for name, total in totals.items()}

    def validate(self, validate: Validate | None, line: dict[str, Any]) -> None:
        """Add the validation metrics to the epoch's entry, and copy the parameters if they are the best so far.

        Without a function `validate`, every epoch counts as the best so far.
        """
        epoch, metric = line["epoch"], self.config.metric
        metrics = validate(self.model.validation_scorer()) if validate is not None else {}
        metrics = line["valid"] = self.model.inputs.ranks.from_first(metrics)
        if validate is not None and metric not in metrics:
            raise ConfigError(f"metric '{metric}' is not among the validation metrics: {', '.join(metrics)}")
        value = metrics[metric] if validate is not None else float(epoch)
        if value > self.result.best_value:
            self.result.best_epoch, self.result.best_value = epoch, value
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}


def _learning_rate(config: TrainConfig, epoch: int) -> float:
    """Return the learning rate of an epoch: a linear rise in the warm-up, then the schedule of `config`."""
    rate, warmup = config.learning_rate, config.warmup_epochs
    if epoch <= warmup:
        return rate * (epoch / (warmup + 1))
    if config.schedule == "cosine":
        progress = (epoch - 1 - warmup) / max(1, config.epochs - warmup)
        return rate * (0.5 * (1 + math.cos(math.pi * progress)))
    if config.schedule == "exponential":
        return rate * config.decay ** ((epoch - 1 - warmup) / config.decay_epochs)
    return rate


def _validations_without_gain(result: TrainResult) -> int:
    """Return the number of validations since the best epoch."""
    return sum("valid" in line and line["epoch"] > result.best_epoch for line in result.history)


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Context manager in which the first Ctrl-C does not interrupt; a second Ctrl-C interrupts as usual.

    It yields a function that returns whether Ctrl-C was pressed. Outside the main thread nothing is changed, and the
    function returns False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = False

    def handle(number: int, frame: Any) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True
        log.warning("stopping after this epoch with the best model so far; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, before)


def sum_gradients(model: Model) -> None:
    """Replace the gradients of parameters that all ranks (processes) have by their sum over the ranks.

    The gradients of tables that are split over the ranks are complete already.
    """
    ranks = model.inputs.ranks
    if ranks.size == 1:
        return
    gradients = [p.grad for name, p in model.named_parameters() if p.grad is not None and model.shard_of(name) is None]
    if not gradients:
        return
    summed = ranks.sum_(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, total in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def clip_gradient(model: Model, limit: float) -> None:
    """Scale the gradient in place so that its norm, over the parameters of all ranks, is at most `limit`."""
    ranks = model.inputs.ranks
    if ranks.size == 1:
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        return
    split, common = torch.zeros((), device=model.inputs.device), torch.zeros((), device=model.inputs.device)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            (common if model.shard_of(name) is None else split).add_(parameter.grad.square().sum())
    norm = (ranks.sum_(split) + common).sqrt()
    torch.nn.utils.clip_grads_with_norm_(list(model.parameters()), limit, norm)
