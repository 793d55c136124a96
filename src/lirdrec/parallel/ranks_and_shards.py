r"""`Ranks` and `Shard`: exchanges between the processes of one training, as functions of tensors with gradients.

Each process is a rank. A table with a row per user (or item) is split over the ranks: rank r holds the rows
`start … stop - 1`. Parameters without such rows are on all ranks. With three rules a model has the same code in one
process and in many:

- The loss is a sum over the ranks, `L = Σ_r L_r`, and each rank runs backward from its own `L_r`.
- Every exchange is a linear map of all ranks' tensors, and its backward is the adjoint map. So after backward the
  gradient of a split table is complete. The gradient of a parameter that all ranks have is the sum over the ranks
  (`sum_`).
- With one rank, every method returns its argument or the plain torch operation: the same bits as without ranks.

Source of the layout: rows for dense layers, columns for graph layers, NeutronTP (Ai et al., PVLDB 18(2), 2024,
arXiv 2412.20379).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lirdrec.autograd_function_base import AutogradFunction
from lirdrec.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model together; `size` 1 is the usual training in one process.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.

    >>> Ranks().share(torch.tensor(6.0))
    tensor(6.)
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of the tensors `x` of all ranks, on every rank. Differentiable."""
        if self.size == 1:
            return x
        result: Tensor = _Sum.apply(x)
        return result

    def share(self, x: Tensor) -> Tensor:
        """Return `x / size` for an `x` that is equal on all ranks, so that the sum over the ranks is `x`."""
        return x if self.size == 1 else x / self.size

    def norm(self, x: Tensor) -> Tensor:
        """Return the Frobenius norm, a scalar, of a matrix whose rows are split over the ranks. Differentiable."""
        if self.size == 1:
            return x.norm()
        own = torch.arange(self.size, device=x.device) == self.rank
        return self.sum(own * x.norm()).norm()

    def log_sum_exp(self, x: Tensor) -> Tensor:
        """Return `log Σ_r e^{x_r}` for each entry, where `x_r` is the tensor `x` of rank r; without a gradient."""
        if self.size == 1:
            return x
        return torch.stack(self.gather(x)).logsumexp(0)

    def gather(self, x: Tensor) -> list[Tensor]:
        """Return the tensors `x` of all ranks in the order of the ranks; all have one shape. Without a gradient."""
        if self.size == 1:
            return [x]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous())
        return parts

    def sum_(self, x: Tensor) -> Tensor:
        """Replace `x` by its sum over the ranks, and return it; without a gradient."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def any(self, value: bool) -> bool:
        """Return whether the value is true on any rank; every rank gets the same answer."""
        return value if self.size == 1 else bool(self.sum_(torch.tensor(int(value))))

    def from_first(self, value: Any) -> Any:
        """Return the `value` of rank 0, on all ranks; it must be JSON-able."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def values_of_all(self, value: Any) -> list[Any]:
        """Return the list of the values of all ranks, such as numbers and texts, in the order of the ranks."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait_for_all(self) -> None:
        """Wait until all ranks have called this method."""
        self.values_of_all(None)

    def tensor_from_first(self, x: Tensor | None) -> Tensor:
        """Return the tensor `x` of rank 0, on all ranks; the other ranks call this with None."""
        if self.size == 1:
            assert x is not None
            return x
        kind = self.from_first(None if x is None else (tuple(x.shape), str(x.dtype).removeprefix("torch.")))
        if x is None:
            x = torch.empty(kind[0], dtype=getattr(torch, kind[1]))
        device = x.device
        x = x.cpu().contiguous()
        dist.broadcast(x, src=0)
        return x.to(device)

    def shard(self, total: int) -> Shard:
        """Return this rank's shard: a table of `total` rows is split into a range for each rank; the last may be short.

        Raises:
            ConfigError: there are too few rows for every rank to get one.
        """
        length = -(-total // self.size)  # as torch.chunk and torch.distributed.tensor split
        if (self.size - 1) * length >= total and self.size > 1:
            raise ConfigError(f"a table has too few rows ({total}) for {self.size} devices; take fewer devices")
        return Shard(self, tuple(min(rank * length, total) for rank in range(self.size + 1)))


@dataclass(frozen=True)
class Shard:
    """The rows of a table that this rank holds, and the rows that the other ranks hold.

    Attributes:
        ranks: the processes, and which of them is this one.
        bounds: `(size + 1,)` first row of each rank, and at the end the number of rows of the table.
    """

    ranks: Ranks
    bounds: tuple[int, ...]

    @property
    def start(self) -> int:
        return self.bounds[self.ranks.rank]

    @property
    def stop(self) -> int:
        return self.bounds[self.ranks.rank + 1]

    @property
    def rows(self) -> slice:
        """The row numbers of this rank, as a slice of the table."""
        return slice(self.start, self.stop)

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def longest(self) -> int:
        """The number of rows of the rank that holds the most rows."""
        return max(stop - start for start, stop in pairwise(self.bounds))

    @property
    def total(self) -> int:
        return self.bounds[-1]

    def among(self, rows: Tensor) -> Shard:
        """Return the shard of a smaller table, which has only some rows of this table; each row stays on its rank.

        Args:
            rows: `(n,)` int64 row numbers of the smaller table's rows in this table, ascending, equal on all ranks.
        """
        if self.ranks.size == 1:
            return Shard(self.ranks, (0, len(rows)))
        bounds = torch.searchsorted(rows, torch.tensor(self.bounds, device=rows.device))
        return Shard(self.ranks, tuple(bounds.tolist()))

    def take(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return some rows of the table, `(n, …)`; the rows that another rank holds are zero. Differentiable.

        Args:
            x: `(length, …)`, this rank's rows of the table.
            rows: `(n,)` int64 numbers of the rows to return.
        """
        if self.ranks.size == 1:
            # index_select has a deterministic backward on the CPU, unlike indexing with []
            return x.index_select(0, rows)
        if len(x) == 0:
            return x.new_zeros(len(rows), *x.shape[1:])
        own = (rows >= self.start) & (rows < self.stop)
        picked = x.index_select(0, (rows - self.start).clamp(0, len(x) - 1))
        return picked * own.view(-1, *[1] * (x.dim() - 1))

    def gather(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return the rows with the numbers `rows` of the table, `(n, …)`, on every rank. Differentiable.

        The arguments are those of `take`.
        """
        return self.ranks.sum(self.take(x, rows))

    def whole(self, x: Tensor) -> Tensor | None:
        """Return the complete table on rank 0, in CPU memory, and None on the other ranks; without a gradient.

        `x` has this rank's rows.
        """
        x = x.detach().cpu().contiguous()
        if self.ranks.size == 1:
            return x
        if not self.ranks.is_first:
            dist.send(x, 0)
            return None
        table = x.new_empty(self.total, *x.shape[1:])
        table[self.rows] = x
        for rank in range(1, self.ranks.size):
            dist.recv(table[self.bounds[rank] : self.bounds[rank + 1]], rank)
        return table


@dataclass(frozen=True)
class Shards:
    """The rows of users and of items that this rank holds."""

    users: Shard
    items: Shard

    @classmethod
    def of(cls, ranks: Ranks, n_users: int, n_items: int) -> Shards:
        return cls(ranks.shard(n_users), ranks.shard(n_items))

    @property
    def ranks(self) -> Ranks:
        return self.users.ranks

    def to_columns(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Exchange rows for columns: each rank gives its rows, and gets all rows of its part of the columns.

        The tables `(length, D)` become `(total, D_r)`, where D_r is the number of columns of this rank. Differentiable.

        Raises:
            ConfigError: there are fewer columns than ranks.
        """
        n_columns, size = users.shape[1], self.ranks.size
        if size == 1:
            return users, items
        if n_columns < size:
            raise ConfigError(
                f"vectors have too few columns ({n_columns}) for {size} devices; take fewer devices, or a larger"
                " embedding_size"
            )
        result: tuple[Tensor, Tensor] = _ToColumns.apply(users, items, self, n_columns)
        return result

    def to_rows(self, users: Tensor, items: Tensor, n_columns: int) -> tuple[Tensor, Tensor]:
        """Exchange columns for rows, for tables of `n_columns` columns: the inverse of `to_columns`. Differentiable."""
        if self.ranks.size == 1:
            return users, items
        result: tuple[Tensor, Tensor] = _ToRows.apply(users, items, self, n_columns)
        return result


ONE = Ranks()
WHOLE = Shards.of(ONE, 0, 0)  # for a training in one process, where `take` and `gather` do not need the number of rows


def _columns(n: int, size: int) -> list[slice]:
    """Return the range of columns of each of `size` ranks; the numbers of columns differ by one at most."""
    bounds = [0]
    for rank in range(size):
        bounds.append(bounds[-1] + n // size + (rank < n % size))
    return [slice(*pair) for pair in pairwise(bounds)]


def _exchanged(sent: Sequence[tuple[int, int, Tensor]], received: Sequence[tuple[int, int, Tensor]]) -> None:
    """Send the tensors in `sent` to other ranks, and fill the tensors in `received` with what other ranks send.

    Each entry is the other rank, the number of the table (0: users, 1: items), and the tensor.
    """
    operations = [dist.P2POp(dist.isend, x, rank, tag=table) for rank, table, x in sent]
    operations += [dist.P2POp(dist.irecv, x, rank, tag=table) for rank, table, x in received]
    for work in dist.batch_isend_irecv(operations):
        work.wait()


def _rows_to_columns(tables: Sequence[Tensor], shards: Shards, n_columns: int) -> tuple[Tensor, Tensor]:
    """Exchange rows for columns, of users and items at once.

    The part that a rank keeps is copied once; a part that it gets is received directly at its place in the result.
    """
    own, columns = shards.ranks.rank, _columns(n_columns, shards.ranks.size)
    sent, received, results = [], [], []
    for number, (x, shard) in enumerate(zip(tables, (shards.users, shards.items), strict=True)):
        result = x.new_empty(shard.total, columns[own].stop - columns[own].start)
        for rank, (first, last) in enumerate(pairwise(shard.bounds)):
            part = x[:, columns[rank]]
            if rank == own:
                result[first:last] = part
            else:
                sent.append((rank, number, part.contiguous()))
                received.append((rank, number, result[first:last]))
        results.append(result)
    _exchanged(sent, received)
    return results[0], results[1]


def _columns_to_rows(tables: Sequence[Tensor], shards: Shards, n_columns: int) -> tuple[Tensor, Tensor]:
    """Exchange columns for rows, the inverse of `_rows_to_columns`; rows are sent without a copy."""
    own, columns = shards.ranks.rank, _columns(n_columns, shards.ranks.size)
    sent, received, targets, results = [], [], [], []
    for number, (x, shard) in enumerate(zip(tables, (shards.users, shards.items), strict=True)):
        x, result = x.contiguous(), x.new_empty(shard.length, n_columns)
        for rank, (first, last) in enumerate(pairwise(shard.bounds)):
            target = result[:, columns[rank]]
            if rank == own:
                target.copy_(x[first:last])
            else:
                sent.append((rank, number, x[first:last]))
                received.append((rank, number, x.new_empty(target.shape)))
                targets.append(target)
        results.append(result)
    _exchanged(sent, received)
    for target, (_, _, part) in zip(targets, received, strict=True):
        target.copy_(part)
    return results[0], results[1]


class _Sum(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _ToColumns(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, shards: Shards, n_columns: int) -> tuple[Tensor, Tensor]:
        ctx.shards, ctx.n_columns = shards, n_columns
        return _rows_to_columns((users, items), shards, n_columns)

    @staticmethod
    def backward(ctx: Any, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return *_columns_to_rows((users, items), ctx.shards, ctx.n_columns), None, None


class _ToRows(AutogradFunction):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, shards: Shards, n_columns: int) -> tuple[Tensor, Tensor]:
        ctx.shards, ctx.n_columns = shards, n_columns
        return _columns_to_rows((users, items), shards, n_columns)

    @staticmethod
    def backward(ctx: Any, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return *_rows_to_columns((users, items), ctx.shards, ctx.n_columns), None, None
