"""Sizes of the data sets that the benchmarks imitate: users, items, interactions; and feature columns."""

SHAPES = {
    "small": (2_000, 1_000, 20_000),
    "baby": (19_445, 7_050, 161_000),
    "microlens": (98_129, 17_228, 705_174),
    "electronics": (192_403, 63_001, 1_689_188),
    "million": (2_000_000, 1_000_000, 30_000_000),
}
DIMS = {"image": 4096, "text": 384}
