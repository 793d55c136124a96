"""`AutogradFunction`: the base of functions with a gradient of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch


class AutogradFunction(torch.autograd.Function):
    """A function whose `forward` and `backward` name and type their own arguments.

    torch types both as `(*args)`, so a checker of types would refuse any other arguments in a subclass.
    """

    forward: ClassVar[Callable[..., Any]]
    backward: ClassVar[Callable[..., Any]]
