"""Options of all models that read features: to how many columns features are reduced before a model sees them.

The models do not reduce features themselves: `recommender/feature_pca.py` fits the reduction and applies it to
the inputs of a model.
"""

from __future__ import annotations

from dataclasses import dataclass

from lirdrec.config import option, validated
from lirdrec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)  # keyword only, so that the positions of a model's own options do not change
@validated
class SizeOptions:
    """The option `feature_size`, which sets to how many columns features are reduced."""

    feature_size: int | dict[str, int] | None = option(
        None,
        "number of columns to which PCA reduces features, also for finding neighbors; one number, or one per modality;"
        " none: all columns",
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
    """Options for the size and the whitening of features; for models that do not whiten features themselves."""

    whiten: bool = option(False, "scale the principal components of each modality to equal variance")
