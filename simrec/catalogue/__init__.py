"""Catalogues: the items that a recommender answers with, their codes, previews and fields."""

from typing import TYPE_CHECKING, TypeAlias

from simrec.catalogue.local import LocalCatalogue

if TYPE_CHECKING:  # look-ups in local files don't need it
    from simrec.catalogue.remote import RemoteCatalogue

Catalogue: TypeAlias = "LocalCatalogue | RemoteCatalogue"
"""A catalogue in immutable segments of the recommender, or in a database table."""

__all__ = ["Catalogue", "LocalCatalogue"]
