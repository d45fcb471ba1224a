"""simrec's encoders for scikit-learn: pictures to codes as a step of a Pipeline.

>>> from sklearn.linear_model import LogisticRegression
>>> from sklearn.pipeline import make_pipeline
>>> from simrec.sklearn import Encoder
>>> kinds = make_pipeline(Encoder("photo"), LogisticRegression())  # kinds.fit(["a.jpg", "b.jpg"], ["shoe", "bag"])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from simrec import library
from simrec.contracts import Codes, Entry, Images, ImageSpec
from simrec.errors import RequestError
from simrec.recommender import Recommender, silent
from simrec.streams import ahead, chunks


class Encoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The encoder of a recommender as a transformer: pictures become codes, float32 (n, dim).

    recommender: its name, or its folder's path; it is opened when first used, and pickled by name. home: where to look
    for recommenders, by default where simrec looks. data_dir: where to look for a data set's files first.

    X can be a list, a Series or a table of one column that holds paths of picture files, Pillow pictures or arrays
    uint8 (h, w), (h, w, 1) or (h, w, 3); an array uint8 (n, h, w, c); or the name of a source, as text: a folder, a
    list, or what a plugin offers. Each picture is prepared as for a look-up. There is a row for each, in the order of X
    or of the source. The first picture that can't be read is an error, because rows must match labels.

    There is nothing to learn. `fit` remembers the encoder in `encoder_` and `digest_`, so that a model that was fitted
    to its codes isn't given another encoder's codes if the recommender is trained again.
    """

    def __init__(
        self, recommender: str | Path = "photo", *, home: str | Path | None = None, data_dir: str | Path | None = None
    ) -> None:
        self.recommender = recommender
        self.home = home
        self.data_dir = data_dir

    def fit(self, X: Any = None, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Checks that the recommender exists and that X, if given, looks like pictures; reads none of them.

        Raises RequestError if X doesn't, and what `simrec.open` raises.
        """
        record = self._opened().manifest.encoder
        if X is not None and not isinstance(X, str):
            _listed(X)
        self.encoder_, self.digest_ = record.title, record.digest
        return self

    def transform(self, X: Any) -> Codes:  # noqa: N803
        """Pictures to codes, float32 (n, dim).

        Raises ImageError for the first picture that can't be read, DataError for a source that isn't there,
        RequestError for anything that isn't pictures, and if the recommender's encoder isn't the one that `fit` found.
        """
        opened = self._opened()
        record = opened.manifest.encoder
        if getattr(self, "digest_", record.digest) != record.digest:
            raise RequestError(
                f"{opened.name}: its encoder is {record.title} now, but this was fitted with {self.encoder_}: fit again"
            )
        parts = self._of_source(X, record.input) if isinstance(X, str) else _of_pictures(_listed(X), record.input)
        codes = [np.empty((0, record.dim), np.float32)]
        with ahead(parts) as batches:
            codes += (opened.encode(images) for images in batches)
        return np.concatenate(codes)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """The names of a code's numbers, as in a .csv that simrec writes: code_0, code_1, ..."""
        return np.array([f"code_{number}" for number in range(self._opened().manifest.encoder.dim)], object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        tags.requires_fit, tags.no_validation = False, True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_open"}

    def _opened(self) -> Recommender:
        wanted = (self.recommender, self.home)
        if getattr(self, "_open", (None, None))[0] != wanted:
            home = None if self.home is None else Path(self.home)
            self._open = (wanted, library.open(str(self.recommender), home))
        return self._open[1]

    def _of_source(self, name: str, spec: ImageSpec) -> Iterator[Images]:
        """A source's pictures as the encoder's images, batch by batch."""
        from simrec.sources.load import at_once, open_source

        place = None if self.data_dir is None else Path(self.data_dir)
        source = open_source(name, data_dir=place, notice=silent)
        for entries in chunks(source.entries(), at_once(spec)):
            batch = source.read(entries, spec)
            if batch.errors:
                raise batch.errors[0][1]
            yield batch.images


def _listed(given: Any) -> Sequence[Any] | Images:
    """Pictures, one by one. Raises RequestError for anything that isn't pictures."""
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 4:
        return given
    if getattr(given, "ndim", 1) == 2 and given.shape[1] == 1:  # a table of one column
        given = np.asarray(given)[:, 0]
    if getattr(given, "ndim", 1) != 1 or not hasattr(given, "__iter__"):
        raise RequestError(
            f"{type(given).__name__} {getattr(given, 'shape', '')} is not a list of pictures: give paths, Pillow "
            f"pictures or arrays uint8 (h, w, c), or the name of a source"
        )
    return list(given)


def _of_pictures(pictures: Sequence[Any] | Images, spec: ImageSpec) -> Iterator[Images]:
    """Pictures as the encoder's images, batch by batch."""
    from simrec.reading import read_files
    from simrec.sources.load import at_once

    for start in range(0, len(pictures), size := at_once(spec)):
        some = pictures[start : start + size]
        if all(isinstance(one, str | Path) for one in some):
            batch = read_files([Entry(str(path), str(path)) for path in some], [Path(path) for path in some], spec)
            if batch.errors:
                raise batch.errors[0][1]
            yield batch.images
        else:
            yield np.concatenate([_image(one, spec, f"picture {row}") for row, one in enumerate(some, start)])


def _image(picture: Any, spec: ImageSpec, name: str) -> Images:
    """One picture as the encoder's image, (1, h, w, c)."""
    from PIL import Image

    from simrec import images

    if isinstance(picture, str | Path):
        return images.read(Path(picture), spec)
    if isinstance(picture, Image.Image):
        return images.of_picture(picture, spec, name)
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] in ((), (1,), (3,)):
        return images.of_picture(picture[:, :, 0] if picture.shape[2:] == (1,) else picture, spec, name)
    raise RequestError(
        f"{name}: {type(picture).__name__} is not a picture: give a path, a Pillow picture, or an array uint8 (h, w, c)"
    )
