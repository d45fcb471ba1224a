"""simrec: similar items for a picture, from your own pictures, offline.

>>> import simrec
>>> recommender = simrec.open("demo")
>>> [match.label for match in recommender.similar("id:test/00000", n=3)]
['Ankle boot', 'Ankle boot', 'Ankle boot']

Importing this package imports nothing heavy; its functions import what they need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simrec.library import listing, open
    from simrec.queries import Match, Query
    from simrec.recommender import Recommender
    from simrec.reports import Answer
    from simrec.verbs.build import build
    from simrec.verbs.encoding import Context
    from simrec.verbs.evaluate import Evaluation, evaluate
    from simrec.verbs.generations import history, rollback, verify
    from simrec.verbs.index import Outcome, add, remove, set_fields, sync
    from simrec.verbs.train import Plan, train

__all__ = [
    "Answer", "Context", "Evaluation", "Match", "Outcome", "Plan", "Query", "Recommender", "add", "build", "evaluate",
    "history", "listing", "open", "remove", "rollback", "set_fields", "sync", "train", "verify",
]  # fmt: skip

_PLACES = {
    "Answer": "simrec.reports",
    "Context": "simrec.verbs.encoding",
    "Evaluation": "simrec.verbs.evaluate",
    "Match": "simrec.queries",
    "Plan": "simrec.verbs.train",
    "Query": "simrec.queries",
    "Recommender": "simrec.recommender",
    "build": "simrec.verbs.build",
    "evaluate": "simrec.verbs.evaluate",
    "listing": "simrec.library",
    "open": "simrec.library",
    "train": "simrec.verbs.train",
    **dict.fromkeys(("history", "rollback", "verify"), "simrec.verbs.generations"),
    **dict.fromkeys(("Outcome", "add", "remove", "set_fields", "sync"), "simrec.verbs.index"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'simrec' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
