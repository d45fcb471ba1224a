"""Draws two contact sheets: ten test queries answered with raw pixels, and the same ten with a recommender's codes.

    python tests/benchmarks/before_after.py --index quickstart --mirrored -o .github/pictures

The queries are the first test picture of each class; --mirrored flips them left to right, as another shop might show
them. Writes before.png and after.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import simrec
from simrec import sheets
from simrec.contracts import Codes
from simrec.evaluation import pixels
from simrec.index import Index
from simrec.perturbations import mirrored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", default="quickstart")
    parser.add_argument("-o", "--output", type=Path, default=Path())
    parser.add_argument("--mirrored", action="store_true")
    given = parser.parse_args()

    recommender = simrec.open(given.index)
    test = recommender.pictures("fashion-mnist:test")
    rows = sorted(test.labels.index(label) for label in set(test.labels))
    queries = mirrored(test.images[rows]) if given.mirrored else test.images[rows]
    images = recommender.catalogue.thumbnails()
    labels = [item.label for item in recommender.catalogue.all()]

    def answered(index: Index, codes: Codes, title: str, file: Path) -> None:
        found, _ = index.search(codes, 10)
        asked = [test.labels[row] for row in rows]
        sheet, hits = [], 0
        for query, label, near in zip(queries, asked, found, strict=True):
            right = [labels[row] == label for row in near]
            hits += sum(right)
            tiles = [sheets.Tile(images[row], (labels[row],), good) for row, good in zip(near, right, strict=True)]
            sheet.append([sheets.Tile(query, (label, "query"), query=True), *tiles])
        sheets.contact_sheet(sheet, f"{title}: {hits} of {found.size} have the query's class").save(file)
        print(f"{file}: {hits} of {found.size}")

    raw, asked = pixels(images), pixels(queries)
    answered(Index(raw, "cosine"), asked, f"Raw pixels, {raw.shape[1]} numbers", given.output / "before.png")
    codes = recommender.encode(queries)
    title = f"Codes of {recommender.manifest.encoder.name}, {codes.shape[1]} numbers"
    answered(recommender.index, np.asarray(codes), title, given.output / "after.png")


if __name__ == "__main__":
    main()
