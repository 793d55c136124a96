"""The command of `tests/cli`."""

from ..cli.conftest import lirdrec

__all__ = ["lirdrec"]
