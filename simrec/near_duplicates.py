"""Whether two pictures are the same photo, saved again: as another format, at another size, darker or lighter.

A difference hash makes a picture small and grey and keeps whether each pixel is lighter than the one before. Two items
on a plain background agree in most of these bits, because only the background's gradient decides them. So simrec
compares the differences themselves, among which the background's small ones hardly count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
"""Edge of the small version in pixels."""

SAME = 0.975
"""Two pictures are the same photo if the cosine of their differences is at least this.

Measured with the previews of clothing-dataset-small, 3,409 photos. 569 of them were saved again (JPEG quality 40),
halved, or darkened by 20 %: 568 of each reach it, and 564 of those made a third as large and saved again. Of all 5.8
million pairs one does (0.9996), which is the same photo; the next has 0.79. Fashion-MNIST's silhouettes are more alike:
with their first neighbours by demo, four of the 10,000 test pictures reach it (0.997), which are two photos that are
there twice; the next have 0.973 and are two trousers. Cropped copies don't reach it: 0.87 is usual for 98 % of the
edges, and 0.53 for 95 %. So counts that use it are lower bounds.
"""


COARSE = 8
"""Edge of an even smaller version in pixels; its differences tell most pictures apart."""

ALIKE = 0.985
"""Pictures of the same photo reach this cosine of their coarse differences. Among 1,916 copies of clothing photos that
reach SAME (see there), the lowest has 0.996; of 73,536 pairs of different photos, 0.01 % reach 0.9."""


def details(picture: Image.Image, side: int = SIDE) -> NDArray[np.float32]:
    """The differences between neighbouring pixels of a small grey version of a picture, as a vector of length 1.

    side: edge of that version in pixels. Float32 (2 * side * (side - 1),); zeros for a picture of one colour.
    """
    small = picture.convert("L").resize((side, side), Image.Resampling.BOX)
    grey = np.asarray(small, np.float32)
    differences = np.concatenate([np.diff(grey, axis=0).ravel(), np.diff(grey, axis=1).ravel()])
    vector: NDArray[np.float32] = (differences / max(float(np.linalg.norm(differences)), 1)).astype(np.float32)
    return vector


def same_photo(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures are the same photo; never for pictures of one colour, which have no details."""
    return same(details(one), details(other))


def same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """The same for two pictures' details."""
    return bool(one @ other >= SAME)
