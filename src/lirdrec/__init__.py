"""LIRDRec: recommend items by their texts, images and audio; add new items without retraining; explain scores.

    dataset = lirdrec.Dataset.load("sample/movielens")
    recommender = lirdrec.fit(dataset)
    recommender.recommend("15", k=10)

The public names below are imported when they are first used, so that `import lirdrec` stays light: it loads neither
torch nor polars.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lirdrec.errors import LirdrecError

if TYPE_CHECKING:
    from lirdrec.data.dataset import Dataset
    from lirdrec.evaluation.evaluator import Metrics, evaluate
    from lirdrec.hub.push_and_load_objects import from_hub, push_to_hub
    from lirdrec.models.bm3 import BM3Config
    from lirdrec.models.bsarec import BSARecConfig
    from lirdrec.models.cohesion import COHESIONConfig
    from lirdrec.models.content_knn import ContentKNNConfig
    from lirdrec.models.ease import AddEASEConfig, CEASEConfig, EASEConfig
    from lirdrec.models.freedom import FREEDOMConfig
    from lirdrec.models.grcn import GRCNConfig
    from lirdrec.models.gru4rec import GRU4RecConfig
    from lirdrec.models.hstu import HSTUConfig
    from lirdrec.models.item_knn import ItemKNNConfig
    from lirdrec.models.l3ae import L3AEConfig
    from lirdrec.models.last_content_knn import LastContentKNNConfig
    from lirdrec.models.last_item_knn import LastItemKNNConfig
    from lirdrec.models.lattice import LATTICEConfig
    from lirdrec.models.lgmrec import LGMRecConfig
    from lirdrec.models.lightgcn import LightGCNConfig
    from lirdrec.models.lirdrec import LIRDRecConfig
    from lirdrec.models.lirdrec_seq import LIRDRecSeqConfig
    from lirdrec.models.mf import MFConfig
    from lirdrec.models.mgcn import MGCNConfig
    from lirdrec.models.micro import MICROConfig
    from lirdrec.models.popularity import PopularityConfig
    from lirdrec.models.sasrec import SASRecConfig
    from lirdrec.models.sasrec_features import SASRecFeaturesConfig
    from lirdrec.models.slmrec import SLMRecConfig
    from lirdrec.models.smore import SMOREConfig
    from lirdrec.models.unisrec import UniSRecConfig
    from lirdrec.models.vbpr import VBPRConfig
    from lirdrec.models.whitenrec import WhitenRecConfig, WhitenRecPlusConfig
    from lirdrec.recommender.fit import fit
    from lirdrec.recommender.presets import preset
    from lirdrec.recommender.recommender import Recommender
    from lirdrec.training.config import TrainConfig

from lirdrec._version import __version__ as __version__

__all__ = [
    "AddEASEConfig",
    "BM3Config",
    "BSARecConfig",
    "CEASEConfig",
    "COHESIONConfig",
    "ContentKNNConfig",
    "Dataset",
    "EASEConfig",
    "FREEDOMConfig",
    "GRCNConfig",
    "GRU4RecConfig",
    "HSTUConfig",
    "ItemKNNConfig",
    "L3AEConfig",
    "LATTICEConfig",
    "LGMRecConfig",
    "LIRDRecConfig",
    "LIRDRecSeqConfig",
    "LastContentKNNConfig",
    "LastItemKNNConfig",
    "LightGCNConfig",
    "LirdrecError",
    "MFConfig",
    "MGCNConfig",
    "MICROConfig",
    "Metrics",
    "PopularityConfig",
    "Recommender",
    "SASRecConfig",
    "SASRecFeaturesConfig",
    "SLMRecConfig",
    "SMOREConfig",
    "TrainConfig",
    "UniSRecConfig",
    "VBPRConfig",
    "WhitenRecConfig",
    "WhitenRecPlusConfig",
    "evaluate",
    "fit",
    "from_hub",
    "preset",
    "push_to_hub",
]

_LAZY_IMPORTS = {
    "AddEASEConfig": "lirdrec.models.ease",
    "BM3Config": "lirdrec.models.bm3",
    "BSARecConfig": "lirdrec.models.bsarec",
    "CEASEConfig": "lirdrec.models.ease",
    "COHESIONConfig": "lirdrec.models.cohesion",
    "ContentKNNConfig": "lirdrec.models.content_knn",
    "Dataset": "lirdrec.data.dataset",
    "EASEConfig": "lirdrec.models.ease",
    "FREEDOMConfig": "lirdrec.models.freedom",
    "GRCNConfig": "lirdrec.models.grcn",
    "GRU4RecConfig": "lirdrec.models.gru4rec",
    "HSTUConfig": "lirdrec.models.hstu",
    "ItemKNNConfig": "lirdrec.models.item_knn",
    "L3AEConfig": "lirdrec.models.l3ae",
    "LATTICEConfig": "lirdrec.models.lattice",
    "LGMRecConfig": "lirdrec.models.lgmrec",
    "LIRDRecConfig": "lirdrec.models.lirdrec",
    "LIRDRecSeqConfig": "lirdrec.models.lirdrec_seq",
    "LastContentKNNConfig": "lirdrec.models.last_content_knn",
    "LastItemKNNConfig": "lirdrec.models.last_item_knn",
    "LightGCNConfig": "lirdrec.models.lightgcn",
    "MFConfig": "lirdrec.models.mf",
    "MGCNConfig": "lirdrec.models.mgcn",
    "MICROConfig": "lirdrec.models.micro",
    "Metrics": "lirdrec.evaluation.evaluator",
    "PopularityConfig": "lirdrec.models.popularity",
    "Recommender": "lirdrec.recommender.recommender",
    "SASRecConfig": "lirdrec.models.sasrec",
    "SASRecFeaturesConfig": "lirdrec.models.sasrec_features",
    "SLMRecConfig": "lirdrec.models.slmrec",
    "SMOREConfig": "lirdrec.models.smore",
    "TrainConfig": "lirdrec.training.config",
    "UniSRecConfig": "lirdrec.models.unisrec",
    "VBPRConfig": "lirdrec.models.vbpr",
    "WhitenRecConfig": "lirdrec.models.whitenrec",
    "WhitenRecPlusConfig": "lirdrec.models.whitenrec",
    "evaluate": "lirdrec.evaluation.evaluator",
    "fit": "lirdrec.recommender.fit",
    "from_hub": "lirdrec.hub.push_and_load_objects",
    "preset": "lirdrec.recommender.presets",
    "push_to_hub": "lirdrec.hub.push_and_load_objects",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'lirdrec' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY_IMPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
