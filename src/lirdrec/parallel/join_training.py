"""Join the processes of one training, which `lirdrec train --devices N`, torchrun or a similar launcher started."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from datetime import timedelta

from lirdrec.errors import ConfigError, LirdrecError, TrainingError
from lirdrec.parallel.launch import LOST, RENDEZVOUS
from lirdrec.parallel.ranks_and_shards import Ranks

TIMEOUT = timedelta(hours=4)  # rank 0 may compute alone for long; a lost process is noticed at once


class LostRankError(TrainingError):
    """Another process of the training has ended, so this process cannot continue."""

    exit_code = LOST


def is_rank() -> bool:
    """Return whether this process is one of several of a training (`RANK` and `WORLD_SIZE`, as torchrun sets them)."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def is_first() -> bool:
    """Return whether this process is rank 0 (the first of several), or the only one."""
    return not is_rank() or os.environ["RANK"] == "0"


def is_launched() -> bool:
    """Return whether `lirdrec train --devices` has started this process as a rank (one of several processes)."""
    return RENDEZVOUS in os.environ


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[tuple[Ranks, str]]:
    """Context manager that connects this process with the others; yields `Ranks` and this process's device name.

    Args:
        device: "auto" (cuda if this machine has a GPU for each of its processes, else cpu), "cpu" or "cuda".

    Raises:
        ConfigError: `device` is another word, or is "cuda" and this machine has fewer GPUs than its processes.
        LostRankError: another process ended while the block ran.
    """
    import torch
    import torch.distributed as dist

    size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    n_local, n_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", size)), torch.cuda.device_count()
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device '{device}': with several devices choose cpu or cuda, or keep auto")
    if device == "cuda" and n_gpus < n_local:
        raise ConfigError(f"{n_local} devices: this machine has fewer GPUs ({n_gpus}); use fewer devices, or cpu")
    on_gpu = device == "cuda" or (device == "auto" and n_gpus >= n_local)
    if on_gpu:
        torch.cuda.set_device(local_rank)
    if is_launched():
        _end_with_launcher()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=f"file://{os.environ[RENDEZVOUS]}",
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
    else:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    if rank > 0:  # one process warns for all
        logging.getLogger("lirdrec").setLevel(logging.ERROR)
    with _telling_lost():
        yield Ranks(rank, size), f"cuda:{local_rank}" if on_gpu else "cpu"
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()


@contextlib.contextmanager
def in_group(on_gpu: bool) -> Iterator[tuple[Ranks, str]]:
    """Context manager like `joined`, for processes that Ray Train has connected already; `on_gpu`: each has a GPU."""
    import torch
    import torch.distributed as dist

    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if not ranks.is_first:
        logging.getLogger("lirdrec").setLevel(logging.ERROR)
    with _telling_lost():
        yield ranks, f"cuda:{torch.cuda.current_device()}" if on_gpu else "cpu"


@contextlib.contextmanager
def _telling_lost() -> Iterator[None]:
    """Context manager that raises a LostRankError if an exchange fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, LirdrecError) or not _is_lost(error):
            raise
        raise LostRankError(
            "another process of this training has ended; to continue from the last checkpoint, run the same command"
            " with --resume"
        ) from error


def _is_lost(error: RuntimeError) -> bool:
    """Return whether another process has ended and so an exchange failed: by the type or the text of the error."""
    import torch.distributed as dist

    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "onnection" in text or "NCCL" in text


def _end_with_launcher() -> None:
    """Start a thread that ends this process when the process that started it ends and so closes its standard input."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):  # not sys.stdin, whose lock a thread must not hold when Python ends
                pass
        os._exit(LOST)

    threading.Thread(target=wait, name="launcher", daemon=True).start()
