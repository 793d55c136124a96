"""`lirdrec train`: train a model, save it in a run folder, and show its test metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lirdrec.cli.config import configuration, feature_size, given_twice, training_keys
from lirdrec.cli.evaluate import SPLITS, evaluate_with_baseline
from lirdrec.cli.option_groups import ARGUMENTS, integer
from lirdrec.cli.output import HEADLINE, INTERRUPTED, console, metrics_table, percent, print_json, print_line, settings
from lirdrec.cli.shared_options import (
    DatasetArgument,
    JsonOption,
    RayOption,
    SeedOption,
    SetOption,
    TrackOption,
    option,
)
from lirdrec.errors import ConfigError
from lirdrec.trackers import check_tracker
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.recommender.recommender import Recommender


FEATURE_OPTIONS = ("feature_size", "whiten")
LIMITS = ("epochs", "patience")  # keys of the training configuration that have an option of their own
SETTINGS = ("model", "preset", "config", "assignments", "seed", "no_new_item_calibration", *LIMITS, *FEATURE_OPTIONS)


@dataclass(frozen=True)
class ModelOptions:
    """Model and training"""

    model: str | None = option(None, "lirdrec (default), or another one of docs/models.md (lightgcn, ease …).")
    preset: str | None = option(None, "fast or paper (default: fast).")
    config: Path | None = option(None, "TOML file with the tables [model] and [training].")
    assignments: SetOption = None
    epochs: int | None = option(None, "Maximum number of epochs.")
    patience: int | None = option(None, "Validations without improvement before the training stops.")
    seed: SeedOption = None
    feature_size: list[str] | None = option(
        None,
        "Reduce features to N columns, for all modalities or for the named one; may be repeated. The fast preset of"
        " lirdrec has 256; --set feature_size=none keeps all.",
        metavar="N|NAME=N",
    )
    whiten: bool = option(False, "Scale the principal components of features to equal variance.")
    refit: Path | None = option(None, "Train on all interactions, with RUN's settings and best epoch.", metavar="RUN")

    start: Path | None = option(None, "Continue training from RUN, with its settings.", "--from", metavar="RUN")
    no_new_item_calibration: bool = option(False, "Do not calibrate how items that are added later compete.")

    def for_fit(self) -> dict[str, Any]:
        """Return the options as arguments of `fit`; raise a ConfigError for options that do not go together."""
        if self.refit is not None and self.start is not None:
            raise ConfigError(
                "--from: --refit RUN starts as RUN started (from its earlier run, if it has one); leave --from out"
            )
        if self.refit is not None:
            self._refuse("--refit", *SETTINGS)
            return {"refit": self.refit}
        if self.start is not None:
            self._refuse("--from", "model", "preset", *FEATURE_OPTIONS)
            return {"warm_start": self.start} | self._continued()
        config, training = configuration(
            self.model or "lirdrec", self.preset, self.config, self.assignments or [], self.seed, self._own_options()
        )
        return {"config": config, "training": training} | ({} if self.preset is None else {"preset": self.preset})

    @property
    def kind(self) -> str:
        """The last part of the run folder's default name: "refit", "continued" or the name of the model."""
        return "refit" if self.refit is not None else "continued" if self.start is not None else self.model or "lirdrec"

    def _own_options(self) -> dict[str, Any]:
        """Return key → value for the keys that were given by an option of their own, such as --epochs."""
        sizes = {"feature_size": feature_size(self.feature_size)} if self.feature_size else {}
        return sizes | ({"whiten": True} if self.whiten else {}) | self._limits()

    def _limits(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}

    def _refuse(self, with_option: str, *names: str) -> None:
        for name in names:
            if getattr(self, name) not in (None, [], False):
                flag = "--set" if name == "assignments" else "--" + name.replace("_", "-")
                raise ConfigError(f"{flag}: {with_option} uses the setting of the earlier run; leave this option out")

    def _continued(self) -> dict[str, Any]:
        """Return the argument `training` of `fit` for --from, as a dict; empty if no option of training is given.

        It is the training configuration of the earlier run, changed by the options that were given.
        """
        limits = self._limits()
        if self.config is None and not self.assignments and not limits and self.seed is None:
            return {}
        from lirdrec.config import make_config, parse_assignments, read_toml, to_dict
        from lirdrec.recommender.refit_settings import continued_training
        from lirdrec.recommender.warm_start import read_earlier
        from lirdrec.training.config import TrainConfig

        state = read_earlier(self.start)
        known = training_keys(str(state.info.get("model")))
        from_file = {} if self.config is None else read_toml(self.config)
        for heading, values in from_file.items():
            if heading != "training" or not isinstance(values, dict):
                raise ConfigError(
                    f"{self.config}: with --from the file may have only the table [training]; leave out {heading}"
                )
        in_file, own = from_file.get("training", {}), parse_assignments(self.assignments or [])
        for key in limits.keys() & own.keys():
            raise given_twice(key)
        for keys, prefix in ((in_file, f"{self.config}, [training]: "), (own, "--set ")):
            for key in keys:
                if key not in known:
                    raise ConfigError(
                        f"{prefix}{key}: with --from only options of training can change ({', '.join(known)}); the"
                        " options of the model are those of the earlier run"
                    )
        make_config(TrainConfig, in_file, f"{self.config}, [training]")  # raises for a wrong value
        given = in_file | own | limits | ({} if self.seed is None else {"seed": self.seed})
        return {"training": make_config(TrainConfig, to_dict(continued_training(state)) | given, "[training]")}


def train(
    dataset: DatasetArgument,
    options: ModelOptions,
    context: typer.Context,
    run: Path | None = option(None, "Folder to write (default: runs/DATASET-MODEL).", "--run", "--output", "-o"),
    device: str | None = option(None, "auto, cpu, cuda or mps (default: auto)."),
    devices: int | None = option(
        None, "Train in N processes, each on a GPU, or all on the CPU.", callback=integer(1), metavar="N"
    ),
    ray: RayOption = None,
    resume: bool = option(False, "Continue a training that was stopped."),
    overwrite: bool = option(False, "Replace the run in the folder."),
    track: TrackOption = None,
    json: JsonOption = False,
) -> None:
    """Train a model, save the best epoch in a run folder, and show its test metrics beside those of popularity.

    \b
      lirdrec train mydata --run runs/first
      lirdrec train mydata --preset paper --set n_layers=3 --set regularization=1e-4
      lirdrec train mydata --run runs/first --resume
      lirdrec train mydata --refit runs/first --run runs/served
      lirdrec train newdata --from runs/first --run runs/second
      lirdrec train mydata --devices 4 --run runs/large
      lirdrec train /shared/mydata --ray-address auto --run /shared/runs/large
      lirdrec train mydata --feature-size image=256 --feature-size text=128

    --refit trains on all interactions, the newest included; such a run has no metrics, since no data is held out.
    --from starts from the parameters of an earlier run and needs few epochs; only options of training can be changed
    (--epochs, --patience, --seed, --set, --config). --devices splits the rows of users and items between processes
    (docs/distributed.md). With torchrun, write --output in place of --run, since torchrun has an option --run, too.
    """
    from lirdrec.data.readers import read_any
    from lirdrec.evaluation.evaluator import unseen_part

    if ray is None and (devices or 1) > 1 and _start_ranks(context, devices or 1):
        return
    check_tracker(track)
    arguments = options.for_fit() | {"calibrate_new_items": not options.no_new_item_calibration}
    data = read_any(dataset)
    folder = run or _default_run(data.name, options.kind, resume)
    arguments |= {"run": folder, "resume": resume, "overwrite": overwrite, "progress": not settings.quiet and not json}
    with _ending_when_lost(), tracked(track, folder, data.name, arguments) as log_final:
        cluster = None if ray is None else {"address": ray, "dataset": dataset, "devices": devices}
        recommender = _fit(data, device, arguments, cluster)
        if recommender is None:  # rank 0 does the rest
            return
        stopped = recommender.info.get("stopped") == "interrupted"
        data = unseen_part(recommender, data)[0]
        results = evaluate_with_baseline(recommender, data)[0] if len(data.test) and options.refit is None else {}
        log_final({f"test/{name}": value for name, value in next(iter(results.values()), {}).items()})
    if results:
        recommender.record_metrics("test", next(iter(results.values())))
    if json:
        print_json({"run": str(folder), "interrupted": stopped, "test": results})
    else:
        _show_run(folder, data, results, options.refit, recommender)
    if stopped:
        print_line("Stopped; the best model so far is saved. To continue, run this command with --resume", errors=True)
        raise typer.Exit(INTERRUPTED)


def _start_ranks(context: typer.Context, devices: int) -> bool:
    """Run this command in `devices` processes, wait for them, and return True.

    If this process is one of these processes, only return False.

    Raises:
        typer.Exit: the exit code of the training is not 0; it has the same code.
        ConfigError: another launcher has started this process.
    """
    from lirdrec.parallel.launch import RENDEZVOUS, run_ranks

    if RENDEZVOUS in os.environ:
        return False
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("--devices: the launcher (torchrun) has started the processes already; leave --devices out")
    code = run_ranks(context.meta[ARGUMENTS], devices)
    if code:
        raise typer.Exit(code)
    return True


def _fit(
    data: Dataset, device: str | None, arguments: dict[str, Any], cluster: dict[str, Any] | None
) -> Recommender | None:
    """Train in this process alone, together with other processes, or on a Ray cluster.

    Returns:
        The trained recommender; None in all processes but the first (rank 0).
    """
    from lirdrec.parallel.join_training import is_rank, joined
    from lirdrec.recommender.distributed_fit import fit_on_ranks
    from lirdrec.recommender.fit import fit

    if cluster is not None:
        from lirdrec.recommender.ray_training import fit_on_ray

        return fit_on_ray(**cluster, device=device or "auto", **arguments)
    if not is_rank():
        return fit(data, **(arguments if device is None else arguments | {"device": device}))
    with joined(device or "auto") as (ranks, own_device):
        return fit_on_ranks(ranks, data, device=own_device, **arguments)


@contextmanager
def _ending_when_lost() -> Iterator[None]:
    """Context manager for one of several processes of a training, which ends if another one of them has ended.

    If `lirdrec train --devices` started this process, it exits at once and prints nothing: the process that started all
    of them reports the error. If another launcher such as torchrun started it, it raises the LostRankError.
    """
    from lirdrec.parallel.join_training import LostRankError, is_launched

    try:
        yield
    except LostRankError:
        if is_launched():
            os._exit(LostRankError.exit_code)
        raise


@contextmanager
def tracked(
    kind: str | None, run: Path, dataset: str, arguments: dict[str, Any]
) -> Iterator[Callable[[dict[str, float]], None]]:
    """Context manager that logs a training to a tracker: it adds a callback to the arguments of `fit`.

    It yields a function that takes the final metrics. If several processes train together, only the first (rank 0)
    logs.

    Args:
        kind: "mlflow" or "wandb"; None: nothing is logged.
        run: the run folder.
        dataset: name of the dataset.
        arguments: the arguments of `fit`, which are changed.
    """
    from lirdrec.parallel.join_training import is_first

    if kind is None or not is_first():
        yield lambda metrics: None
        return
    from lirdrec.config import to_dict
    from lirdrec.training.callbacks import TrackingCallback

    given = {key: value for key, value in arguments.items() if key in ("config", "training", "preset")}
    params = {key: value if isinstance(value, str) else to_dict(value) for key, value in given.items()}
    model = {"model": getattr(arguments.get("config"), "model", None), "dataset": dataset, "run": str(run)}
    callback = TrackingCallback(kind, run.name, model | params)
    arguments["callbacks"] = (callback,)
    final: dict[str, float] = {}
    try:
        yield final.update
    except BaseException:
        callback.finish(final, failed=True)
        raise
    callback.finish(final)


def _show_batches(recommender: Recommender) -> None:
    """Print the batch size and the learning rate that batch_size="auto" has chosen."""
    automatic = recommender.info.get("automatic")
    if automatic:
        size, rate = automatic["batch_size"], automatic["learning_rate"]
        print_line(f"Batches:    {pluralize(size, 'interaction')} (auto), learning rate {rate:.3g}")


def _show_features(recommender: Recommender) -> None:
    """Print the feature matrices whose number of columns was reduced, with both numbers."""
    projections = {} if recommender.features is None else recommender.features.projections
    if projections:
        sizes = [f"{name} {len(one.offset):,} → {one.n_columns:,}" for name, one in projections.items()]
        own = recommender.info.keys().isdisjoint(("warm_start", "refit"))  # else the options are the earlier run's
        hint = " (--set feature_size=none keeps all)" if own else ""
        print_line(f"Features:   principal components, {', '.join(sizes)} columns{hint}")


def _show_epochs(recommender: Recommender) -> None:
    """Print the epoch whose parameters are kept and, if not all epochs were trained, why the training ended."""
    info, training = recommender.info, recommender.info.get("training", {})
    metrics, stopped = info.get("metrics", {}), info.get("stopped")
    if not metrics.get("valid") or stopped is None:
        return
    n_epochs, n_worse = metrics["epochs"], pluralize(training.get("patience", 0) + 1, "validation")
    reasons = {
        "patience": f"; training ended after {n_worse} without a better value (patience)",
        "interrupted": "; interrupted",
        "callback": "; stopped by a callback",
    }
    of_all = f"epoch {metrics['best_epoch']} of {n_epochs} has the best {training.get('metric')}"
    print_line(f"Epochs:     {of_all}{reasons.get(stopped, '')}")


def _show_start(recommender: Recommender) -> None:
    """Print the earlier run from which the training started (--from), and the number of epochs."""
    start, n_epochs = recommender.info.get("warm_start"), recommender.info.get("metrics", {}).get("epochs")
    if start is not None and n_epochs is not None:
        run, full = start.get("run") or "an earlier run", recommender.info.get("full_epochs")
        scratch = f"; a training from scratch had {full}" if full else ""
        print_line(f"Continued:  {run}, in {pluralize(n_epochs, 'epoch')}{scratch}")


def _show_new_items(recommender: Recommender) -> None:
    """Print the calibrated offset, which is added to the scores of new items, and its measured effect.

    The effect was measured in simulated launches, in which trained items are treated as new.
    """
    step = None if recommender.new_item_encoder is None else recommender.new_item_encoder.step()
    if step is not None:
        print_line(
            f"New items:  offset {step.offset:+.4f}; in simulated launches they got {percent(step.share)} of the"
            f" places, at a cost of {percent(step.cost)} of the hits on known items"
        )


def _show_run(
    folder: Path, data: Dataset, results: dict[str, dict[str, float]], refit: Path | None, recommender: Recommender
) -> None:
    if refit is not None:
        n = pluralize(sum(len(data.split(name)) for name in set(SPLITS.values())), "interaction")
        n_epochs = recommender.info.get("metrics", {}).get("epochs")
        chosen = "" if n_epochs is None else f", in {pluralize(n_epochs, 'epoch')}, as many as its validation chose"
        print_line(f"Trained on all {n} with the settings of {refit}{chosen}; no data is left to evaluate on.")
    if results:
        console().print(metrics_table(results, f"Test, {data.name}", HEADLINE))
    print_line(f"Run folder: {folder}")
    if (folder / "curves.png").is_file():
        print_line(f"Curves:     {folder / 'curves.png'}")
    _show_epochs(recommender)
    _show_start(recommender)
    _show_features(recommender)
    _show_batches(recommender)
    _show_new_items(recommender)


def _default_run(name: str, model: str, resume: bool) -> Path:
    """Return runs/NAME-MODEL, or with a number the first such folder that does not exist.

    To resume, return the last such folder that exists.
    """
    first = last = folder = Path("runs") / f"{name}-{model}"
    number = 1
    while folder.exists():
        last, number = folder, number + 1
        folder = Path(f"{first}-{number}")
    return last if resume else folder
