"""Options of all models that read features: to how many columns features are reduced before a model sees them.

The reduction is no part of the models: `recommender/feature_size.py` fits it and applies it to their inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from lirdrec.config import option, validated
from lirdrec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)  # so that the models' own options keep their places
@validated
class SizeOptions:
    """The size of features."""

    feature_size: int | dict[str, int] | None = option(
        None, "columns to which PCA reduces features, also for neighbors; one number or one per modality; none: all"
    )

    def __post_init__(self) -> None:
        following = getattr(super(), "__post_init__", None)
        if following is not None:
            following()
        sizes = self.feature_size if isinstance(self.feature_size, dict) else {"": self.feature_size}
        for name, size in sizes.items():
            if size is not None and size < 1:
                of = f" of '{name}'" if name else ""
                raise ConfigError(f"feature_size{of} is {size}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True)
@validated
class FeatureSizeOptions(SizeOptions):
    """The size of features, and whether they are whitened; for models that do not whiten by themselves."""

    whiten: bool = option(False, "scale the principal components of each modality to equal variance")
