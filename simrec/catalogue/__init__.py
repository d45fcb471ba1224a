"""The items that a recommender answers with."""

from simrec.catalogue.local import Catalogue, Item, write

__all__ = ["Catalogue", "Item", "write"]
