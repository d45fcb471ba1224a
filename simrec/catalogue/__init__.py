"""Catalogues: the items that a recommender answers with, their codes, previews and fields."""

from typing import TypeAlias

from simrec.catalogue.local import LocalCatalogue
from simrec.catalogue.remote import RemoteCatalogue

Catalogue: TypeAlias = LocalCatalogue | RemoteCatalogue
"""In immutable segments of this recommender, or in a table of a database."""

__all__ = ["Catalogue", "LocalCatalogue", "RemoteCatalogue"]
