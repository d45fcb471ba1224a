"""Catalogues: the items that a recommender answers with, their codes, previews and fields."""

from typing import TypeAlias

from simrec.catalogue.local import LocalCatalogue
from simrec.catalogue.remote import RemoteCatalogue

Catalogue: TypeAlias = LocalCatalogue | RemoteCatalogue
"""A catalogue in immutable segments of the recommender, or in a database table."""

__all__ = ["Catalogue", "LocalCatalogue", "RemoteCatalogue"]
