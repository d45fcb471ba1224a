"""Catalogues: the items that a recommender answers with, their codes, previews and fields, in immutable segments."""

from simrec.catalogue.local import LocalCatalogue

__all__ = ["LocalCatalogue"]
