"""Text encoder without download: hashed character n-grams, weighted by TF-IDF, reduced to a few columns."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lirdrec.config import check_minimum
from lirdrec.errors import ConfigError, DataError
from lirdrec.features.encoder import Encoded, Encoder, Input, Kind, Prepared
from lirdrec.wording import pluralize

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

logger = logging.getLogger(__name__)

FIT_TEXTS = 20_000  # maximum number of texts for fitting, which bounds the memory
COLUMNS = 16_384  # maximum number of projected columns, which bounds the state to dims · 64 kB
BLOCK = 4096  # texts that are hashed at once


class TfidfEncoder(Encoder):
    """Text encoder by TF-IDF of hashed parts of words, projected by a truncated SVD; vectors have length 1.

    It knows no language: two texts are similar if they have words or parts of words in common, and rare parts count
    most. `fit` learns the weights of the columns and the projection from a sample; later texts do not change the
    vectors of earlier ones.

    The default length of parts, two and three letters, was measured on 18,357 titles of sports goods with 256 columns:
    39 % of an item's ten nearest neighbors are also nearest neighbors by all-MiniLM-L6-v2. With parts of 3 to 5 letters
    this share is 30 %, with whole words 25 %.

    On one machine, fitting with the same sample, seed and number of threads gives the same bits. After that, the vector
    of a text depends neither on the number of threads nor on the batch.

    Args:
        dims: number of columns of the vectors; fewer if the texts of the sample have fewer directions (then `fit` logs
            a warning).
        n_features: number of columns that parts of words are hashed into, before the projection.
        characters: minimum and maximum length of the parts, which do not cross words.
        seed: seed of the sample and of the SVD's random start.

    Raises:
        ConfigError: an argument is out of range.
    """

    kind: ClassVar[Kind] = "text"
    needs_fit: ClassVar[bool] = True
    shard_rows: ClassVar[int] = 8192
    batch_size: int = 1024

    def __init__(self, dims: int = 256, n_features: int = 2**18, characters: tuple[int, int] = (2, 3), seed: int = 0):
        if dims < 1:
            raise ConfigError(f"dims is {dims}; it must be 1 or more")
        self.wanted, self.n_features, self.characters, self.seed = dims, n_features, tuple(characters), seed
        check_minimum(self, 1, "n_features")
        check_minimum(self, 0, "seed")
        if not 1 <= self.characters[0] <= self.characters[-1]:
            raise ConfigError(
                f"characters is {self.characters}; give the smallest and the largest length of parts of words,"
                " such as (2, 3)"
            )
        self._state: dict[str, np.ndarray] = {}

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings, without the fitted state."""
        return {
            "encoder": "hashed",
            "dims": self.wanted,
            "n_features": self.n_features,
            "characters": list(self.characters),
            "columns": COLUMNS,
            "seed": self.seed,
        }

    @property
    def dims(self) -> int:
        """Number of columns of the vectors; before `fit`, the wanted number."""
        return len(self._state["components"]) if self._state else self.wanted

    def fit(self, inputs: Sequence[Input]) -> None:
        """Learn the weights of the columns and the projection from at most `FIT_TEXTS` of the texts, drawn at random.

        Raises a DataError if the texts are all white space.
        """
        from scipy.sparse import vstack
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfTransformer

        texts = [str(value) for value in inputs]
        if len(texts) > FIT_TEXTS:
            sample = np.random.default_rng(self.seed).choice(len(texts), FIT_TEXTS, replace=False)
            texts = [texts[index] for index in np.sort(sample)]
        columns = self._frequent(texts)
        counts = vstack([block[:, columns] for block in self._hashed(texts)], format="csr")
        counts = counts[np.diff(counts.indptr) > 0]
        weights = TfidfTransformer(sublinear_tf=True).fit(counts)
        weighted = weights.transform(counts)
        with np.errstate(divide="ignore", invalid="ignore"):  # shares of a variance of 0, which are not used
            svd = TruncatedSVD(min(self.wanted, *weighted.shape), random_state=self.seed).fit(weighted)
        dims = max(1, int((svd.singular_values_ > 1e-4 * svd.singular_values_[0]).sum()))  # the rest is rounding
        if dims < self.wanted:
            have = f"{pluralize(len(texts), 'text')} have only {pluralize(dims, 'direction')}"
            logger.warning("%s: dims is %d, not %d", have, dims, self.wanted)
        self.load_state(
            {
                "columns": columns.astype(np.int32),
                "idf": weights.idf_.astype(np.float32),
                "components": svd.components_[:dims].astype(np.float32),
            }
        )

    def state(self) -> dict[str, np.ndarray]:
        """Return the fitted state: `columns` and `idf` `(C,)`, the used columns and their weights; and `components`
        `(d, C)`, the projection."""
        return dict(self._state)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a result of `state`; raises a DataError if it is not a state of this encoder."""
        try:
            columns, idf, components = state["columns"], state["idf"], state["components"]
        except KeyError as error:
            raise DataError(f"the stored state of the text encoder lacks {error}; make the features again") from None
        fits = components.ndim == 2 and components.shape[1] == len(columns) == len(idf) > 0
        if not fits or columns.min() < 0 or columns.max() >= self.n_features:
            raise DataError("the stored state does not belong to this text encoder; make the features again")
        self._state = {"columns": columns, "idf": idf, "components": components}
        self.__dict__.pop("_projection", None)

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Return the vectors `(B, d)` of length 1; a text without any part of a word of the sample is a problem."""
        weights, components = self._projection
        counts = self._vectorizer.transform([prepared.value for prepared in batch])[:, self._state["columns"]]
        vectors = np.asarray(weights.transform(counts) @ components, dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1)
        unknown = np.flatnonzero(lengths < 1e-6)
        vectors[unknown], lengths[unknown] = 0, 1
        problem = "shares no part of a word with the texts that the encoder was fitted to"
        return Encoded(vectors / lengths[:, None], dict.fromkeys(unknown.tolist(), problem))

    @cached_property
    def _vectorizer(self) -> HashingVectorizer:
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(
            analyzer="char_wb",
            ngram_range=self.characters,
            n_features=self.n_features,
            alternate_sign=False,
            norm=None,
            dtype=np.float32,
        )

    @cached_property
    def _projection(self) -> tuple[TfidfTransformer, np.ndarray]:
        """The TF-IDF weights, as scikit-learn's object that applies them, and the projection `(C, d)` to d columns."""
        from sklearn.feature_extraction.text import TfidfTransformer

        if not self._state:
            raise RuntimeError("the encoder must be fitted first")
        weights = TfidfTransformer(sublinear_tf=True)
        weights.idf_ = self._state["idf"]
        return weights, np.ascontiguousarray(self._state["components"].T)

    def _hashed(self, texts: list[str]) -> Iterator[csr_matrix]:
        for start in range(0, len(texts), BLOCK):
            yield self._vectorizer.transform(texts[start : start + BLOCK])

    def _frequent(self, texts: list[str]) -> np.ndarray:
        """Return the numbers of the `COLUMNS` columns that are not zero in the most texts, in order.

        Columns that only one text has are left out, unless there are no others. Raises a DataError if the texts are all
        white space.
        """
        counts = np.zeros(self.n_features, dtype=np.int64)
        for block in self._hashed(texts):
            counts += np.bincount(block.indices, minlength=self.n_features)
        if not counts.any():
            raise DataError("the texts contain only white space, so the encoder cannot be fitted; encode other columns")
        order = np.argsort(-counts, kind="stable")[:COLUMNS]
        return np.sort(order[counts[order] >= min(2, counts.max())])
