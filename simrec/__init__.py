"""simrec: similar items for a picture, from your own pictures, offline.

>>> import simrec
>>> recommender = simrec.open("demo")
>>> [match.label for match in recommender.similar("id:test/00000", n=3)]
['Ankle boot', 'Ankle boot', 'Ankle boot']

Importing this package imports nothing heavy; its functions bring in what they need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simrec.recommender import Evaluation, Match, Recommender, build, evaluate, listing, open, train

__all__ = ["Evaluation", "Match", "Recommender", "build", "evaluate", "listing", "open", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'simrec' has no attribute {name!r}")
    from simrec import recommender

    return getattr(recommender, name)
