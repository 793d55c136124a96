"""`AutogradFunction`: the base class of functions that define their own gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch


class AutogradFunction(torch.autograd.Function):
    """A function whose `forward` and `backward` name and type their own arguments.

    torch declares both methods as `(*args)`, so a type checker would refuse any other arguments in a subclass.
    """

    forward: ClassVar[Callable[..., Any]]
    backward: ClassVar[Callable[..., Any]]
