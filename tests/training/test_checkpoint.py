"""Checkpoints: what comes back, what is refused, and what a kill between two files leaves."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lirdrec.errors import RunFolderError
from lirdrec.training import checkpoint as module
from lirdrec.training.checkpoint import Checkpoint, CheckpointStore, optimizer_tensors, restore_optimizer
from lirdrec.training.config import TrainConfig
from lirdrec.training.loop import train
from lirdrec.training.sharded_checkpoint import _quiet

from ..helpers import assert_error, assert_mentions


def made(epoch: int, best_epoch: int) -> Checkpoint:
    facts = {"best_epoch": best_epoch, "best_value": 0.1 + 0.2, "history": [{"epoch": e} for e in range(1, epoch + 1)]}
    tensors = {"model.w": torch.full((3,), float(epoch)), "optimizer.w.step": torch.tensor(float(epoch))}
    return Checkpoint(tensors, facts, {"w": torch.full((3,), float(best_epoch)), "n": torch.tensor(best_epoch)})


def names(folder) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def check(store: CheckpointStore, epoch: int, best_epoch: int) -> None:
    found, expected = store.load(), made(epoch, best_epoch)
    assert found.facts == expected.facts
    for ours, theirs in ((found.tensors, expected.tensors), (found.best, expected.best)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_comes_back_whole_and_only_the_last_pair_stays(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoint", {"model": "slope", "seed": 3})
    assert store.load() is None
    for epoch, best_epoch in [(1, 1), (2, 1), (3, 3), (4, 3)]:
        store.save(made(epoch, best_epoch))
        assert names(store.folder) == [f"best-{best_epoch}.safetensors", "last.safetensors"]
        check(CheckpointStore(store.folder, {"seed": 3, "model": "slope"}), epoch, best_epoch)


def test_the_best_is_written_only_when_it_changes(tmp_path):
    store = CheckpointStore(tmp_path, {})
    store.save(made(1, 1))
    before = os.stat(tmp_path / "best-1.safetensors").st_ino
    store.save(made(2, 1))
    again = CheckpointStore(tmp_path, {})
    again.load()
    again.save(made(3, 1))
    assert os.stat(tmp_path / "best-1.safetensors").st_ino == before


@pytest.mark.parametrize("epoch, best_epoch", [(3, 1), (3, 3)])
@pytest.mark.parametrize("fails", ["best", "last", "unlink"])
def test_a_kill_between_two_files_leaves_a_pair_that_fits(tmp_path, monkeypatch, epoch, best_epoch, fails):
    store = CheckpointStore(tmp_path, {})
    store.save(made(1, 1))
    store.save(made(2, 1))
    write = module._write

    def killed(path, *rest):
        if path.name.startswith(fails):
            path.with_name(f".{path.name}.1-ab.tmp").write_bytes(b"half")
            path.with_name(".tmpAbCdEf").write_bytes(b"half")  # as safetensors names its own
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(module, "_write", killed)
    if fails == "unlink":
        unlink = Path.unlink

        def killed_there(path, *rest, **options):
            if path.name.startswith("best"):
                raise KeyboardInterrupt
            unlink(path, *rest, **options)

        monkeypatch.setattr(Path, "unlink", killed_there)
    try:
        store.save(made(epoch, best_epoch))
        done = True
    except KeyboardInterrupt:
        done = fails == "unlink"
    monkeypatch.undo()
    check(CheckpointStore(tmp_path, {}), epoch if done else 2, best_epoch if done else 1)
    resumed = CheckpointStore(tmp_path, {})
    resumed.load()
    resumed.save(made(4, 4))
    assert names(tmp_path) == ["best-4.safetensors", "last.safetensors"]  # no temporary file stays
    check(resumed, 4, 4)


def test_the_best_of_another_training_in_the_folder_is_not_taken_for_ours(tmp_path):
    old = made(1, 1)
    old.best["w"] += 100
    CheckpointStore(tmp_path, {"seed": 1}).save(old)
    CheckpointStore(tmp_path, {"seed": 2}).save(made(1, 1))
    check(CheckpointStore(tmp_path, {"seed": 2}), 1, 1)


def test_other_settings_are_refused(tmp_path):
    CheckpointStore(tmp_path, {"model": "lirdrec", "model.n_layers": 3, "weights": (1, 2)}).save(made(1, 1))
    for other, facts in [
        ({"model": "lirdrec", "model.n_layers": 2, "weights": [1, 2]}, ["model.n_layers = 3", "2"]),
        ({"model": "lirdrec", "model.n_layers": 3, "weights": [1, 2], "more": 1}, ["more", "None", "1"]),
    ]:
        with assert_error(RunFolderError, mentions=[tmp_path]) as caught:
            CheckpointStore(tmp_path, other).load()
        assert_mentions(str(caught.value).replace(str(tmp_path), ""), facts)  # the path has numbers too


@pytest.mark.parametrize("file", ["last", "best-2"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone", "foreign"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, file, damage):
    store = CheckpointStore(tmp_path, {})
    store.save(made(2, 2))
    path = tmp_path / f"{file}.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("a checkpoint")
    elif damage == "foreign":
        save_file({"w": torch.zeros(3)}, path)
    elif file == "last":
        path.unlink()
        assert store.load() is None
        return
    else:
        path.unlink()
    with assert_error(RunFolderError, mentions=[path]) as caught:
        store.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["last", "best-2"])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, file):
    """Tensors, names, types and facts are covered; of the rest (spaces of the header) nothing is read."""
    store = CheckpointStore(tmp_path, {"seed": 1})
    store.save(made(2, 2))
    path = tmp_path / f"{file}.safetensors"
    whole, refused = path.read_bytes(), 0
    for index in range(len(whole)):
        content = bytearray(whole)
        content[index] ^= 1 << index % 8
        path.write_bytes(content)
        try:
            check(store, 2, 2)
        except RunFolderError as error:
            refused += 1
            assert "\n" not in str(error)
    n_values = sum(4 * t.numel() for t in (made(2, 2).tensors if file == "last" else made(2, 2).best).values())
    assert refused > 0.8 * len(whole) > n_values


def test_a_checkpoint_without_a_checksum_is_of_an_earlier_version(tmp_path):
    store, whole = CheckpointStore(tmp_path, {}), made(3, 3)
    store.save(whole)
    save_file(whole.best, tmp_path / "best-3.safetensors", metadata={"facts": "{}"})
    facts = json.dumps(whole.facts | {"fingerprint": {}})
    save_file(whole.tensors, tmp_path / "last.safetensors", metadata={"facts": facts})
    check(store, 3, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])
def test_tensors_of_every_type_and_shape_have_a_checksum(tmp_path, dtype):
    tensors = {
        "a": torch.ones(2, 3, dtype=dtype),
        "b": torch.zeros(0, 2, dtype=dtype),
        "c": torch.ones((), dtype=dtype),
    }
    store = CheckpointStore(tmp_path, {})
    store.save(Checkpoint(tensors, made(1, 1).facts, tensors))
    found = store.load()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_a_checkpoint_of_other_parameters_is_one_sentence(slope, tmp_path):
    CheckpointStore(tmp_path, {}).save(made(1, 1))
    with assert_error(RunFolderError, mentions=[tmp_path]):
        train(slope(), TrainConfig(epochs=2), None, store=CheckpointStore(tmp_path, {}), resume=True)


def test_adam_resumes_with_its_moments():
    def step(parameters, optimizer, times):
        for _ in range(times):
            optimizer.zero_grad()
            sum((p**3).sum() for p in parameters).backward()
            optimizer.step()

    def start():
        parameters = [torch.nn.Parameter(torch.arange(4.0)), torch.nn.Parameter(torch.ones(2, 2))]
        return parameters, torch.optim.Adam(parameters, lr=0.1, fused=True)

    # one name is the beginning of the other
    whole, optimizer = start()
    step(whole, optimizer, 3)
    stored = optimizer_tensors(optimizer, dict(zip(whole, ("w", "w.0"), strict=True)))
    assert sorted(stored) == sorted(f"{n}.{k}" for n in ("w", "w.0") for k in ("step", "exp_avg", "exp_avg_sq"))
    stored = {name: tensor.clone() for name, tensor in stored.items()}
    resumed, other = start()
    with torch.no_grad():
        for ours, theirs in zip(resumed, whole, strict=True):
            ours.copy_(theirs)
    restore_optimizer(other, dict(zip(resumed, ("w", "w.0"), strict=True)), stored)
    step(whole, optimizer, 4)
    step(resumed, other, 4)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(resumed, whole, strict=True))


def test_hidden_messages_of_checkpoints_are_shown_again_afterwards():
    logger = logging.getLogger("torch.distributed.checkpoint")
    before = logger.level
    with pytest.raises(KeyError), _quiet():
        assert not logger.isEnabledFor(logging.WARNING)
        raise KeyError
    assert logger.level == before


def test_a_store_may_write_no_more_often_than_asked(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    store = CheckpointStore(tmp_path / "checkpoint", {}, seconds=60)
    for epoch, now, kept in [(1, 159, None), (2, 161, 2), (3, 200, 2), (4, 220, 2), (5, 222, 5)]:
        clock[0] = now
        store.save(made(epoch, epoch))
        if kept is None:
            assert not store.folder.exists()
        else:
            check(CheckpointStore(store.folder, {}), kept, kept)
