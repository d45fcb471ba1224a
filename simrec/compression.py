"""Codes in few bits: quantised, entropy-coded, in a container that names their encoder.

The container, all numbers little-endian:

    offset  bytes  what
         0      8  magic: 89 73 69 6D 72 65 63 0A (0x89, "simrec", newline; the first byte tells text transfers)
         8      2  version, 1
        10      2  bits a number
        12      4  numbers a code, dim
        16     12  height, width and channels of a picture, 4 bytes each
        28      4  count of pictures
        32     32  SHA-256 of the encoder, as its manifest has it ("digest")
        64    ...  the words of the entropy coder (asymmetric numeral systems), 4 bytes each
       -32     32  SHA-256 of all before
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simrec.arrays import from_npz, to_npz
from simrec.contracts import Codes, Images
from simrec.errors import DataError, VersionError

MAGIC = b"\x89simrec\n"
VERSION = 1
HEADER = struct.Struct("<8sHHIIIII32s")
CHECKSUM = hashlib.sha256().digest_size

BITS = range(2, 9)
"""Possible bits per number before entropy coding."""

LARGEST = 1 << 28
"""Maximum bytes of a container, and of the pixels in its pictures: both are held in memory."""

ALIKE = 10_000
"""Up to so many codes may take no words at all."""

STEPS = 1 << BITS[-1]


def sparsity(codes: Codes) -> float:
    """The share of the numbers of codes (n, dim) that are close to zero: at most a thousandth of the largest."""
    sizes = np.abs(codes)
    return float((sizes <= 1e-3 * sizes.max(initial=0)).mean()) if codes.size else 0.0


@dataclass(frozen=True)
class CodeModel:
    """How often each number of a code falls into each of 256 equal steps, in codes of an encoder's train pictures.

    low (dim,): where the first step begins. step (dim,): the width of a step. counts (dim, 256): how many codes fell
    into each step. places (dim, 256): where their mean lies in the step, in 255ths of it; the mean stands for all codes
    in the step. With fewer bits, steps are joined.
    """

    low: NDArray[np.float32]
    step: NDArray[np.float32]
    counts: NDArray[np.uint32]
    places: NDArray[np.uint8]

    @classmethod
    def fit(cls, codes: Codes) -> Self:
        """Fits the model to codes (n, dim), n at least 1."""
        low = codes.min(axis=0)
        step = np.maximum((codes.max(axis=0) - low) / np.float32(STEPS), np.float32(1e-12))
        shape = codes.shape[1], STEPS
        model = cls(low, step, np.zeros(shape, np.uint32), np.zeros(shape, np.uint8))
        levels = model.levels(codes, BITS[-1])
        cells = np.arange(shape[0]), levels
        sums = np.zeros(shape)
        np.add.at(model.counts, cells, 1)
        np.add.at(sums, cells, np.clip((codes - low) / step - levels, 0, 1))
        model.places[:] = np.round(255 * np.where(model.counts > 0, sums / np.maximum(model.counts, 1), 0.5))
        return model

    @classmethod
    def from_bytes(cls, data: bytes, dim: int) -> Self:
        """The model of codes (n, dim) that `to_bytes` wrote. Raises ValueError for anything else."""
        kinds = {
            "low": (np.float32, (dim,)),
            "step": (np.float32, (dim,)),
            "counts": (np.uint32, (dim, STEPS)),
            "places": (np.uint8, (dim, STEPS)),
        }
        model = cls(**from_npz(data, kinds))
        if not ((np.abs(model.low) < 1e15).all() and (model.step > 1e-15).all() and (model.step < 1e15).all()):
            raise ValueError("its steps are not what any codes have")
        return model

    def to_bytes(self) -> bytes:
        """As a compressed .npz file."""
        return to_npz(**{field.name: getattr(self, field.name) for field in fields(self)})

    def levels(self, codes: Codes, bits: int) -> NDArray[np.uint8]:
        """Codes (n, dim) to the steps that their numbers fall into, out of 2**bits."""
        steps = np.clip((codes - self.low) / self.step, 0, STEPS - 1)
        levels: NDArray[np.uint8] = steps.astype(np.uint8) >> (BITS[-1] - bits)
        return levels

    def codes(self, levels: NDArray[np.uint8], bits: int) -> Codes:
        """Steps (n, dim) back to codes: the mean of the codes seen in each step."""
        joined = (len(self.low), 1 << bits, -1)
        weights = self.counts.astype(np.float64) + 1e-6  # a step that nothing fell into gets its middle
        means = self.low[:, np.newaxis] + self.step[:, np.newaxis] * (np.arange(STEPS) + self.places / 255)
        sums = (weights * means).reshape(joined).sum(axis=2)
        centres = (sums / weights.reshape(joined).sum(axis=2)).astype(np.float32)
        codes: Codes = np.take_along_axis(centres, levels.T.astype(np.int64), axis=1).T.copy()
        return codes

    def encoded(self, levels: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
        """Steps (n, dim) to the words of an entropy coder, number by number."""
        from constriction import stream

        coder = stream.stack.AnsCoder()
        for number in reversed(range(len(self.low))):  # it is a stack: what went in last comes out first
            coder.encode_reverse(levels[:, number].astype(np.int32), self._distribution(number, bits))
        words: NDArray[np.uint32] = coder.get_compressed()
        return words

    def decoded(self, words: NDArray[np.uint32], count: int, bits: int) -> NDArray[np.uint8]:
        """The steps (count, dim) that are encoded in words. Raises ValueError if the words don't fit the count."""
        from constriction import stream

        if count > self.most(len(words), bits):
            raise ValueError(f"{len(words):,} words are too few for {count:,} codes")
        coder = stream.stack.AnsCoder(words)
        levels = np.empty((count, len(self.low)), np.uint8)
        for number in range(len(self.low)):
            levels[:, number] = coder.decode(self._distribution(number, bits), count)
        if not coder.is_empty():
            raise ValueError(f"{len(words):,} words are too many for {count:,} codes")
        return levels

    def most(self, words: int, bits: int) -> int:
        """How many codes so many words can hold at most: codes whose numbers all fall into their likeliest step.

        At least ALIKE: an empty coder writes nothing for numbers in their first step, however many there are.
        """
        likeliest = [-np.log2(self._probabilities(number, bits).max()) for number in range(len(self.low))]
        # The coder rounds probabilities to 24 bits and keeps up to 64 bits in its state.
        least = max(0.999 * sum(likeliest) - len(self.low) * 2.0**-22, 1e-9)
        return max(ALIKE, int((32 * words + 64) / least))

    def _distribution(self, number: int, bits: int) -> Any:
        from constriction import stream

        return stream.model.Categorical(self._probabilities(number, bits), perfect=False)

    def _probabilities(self, number: int, bits: int) -> NDArray[np.float64]:
        seen = self.counts[number].reshape(1 << bits, -1).sum(axis=1, dtype=np.float64)
        # Add half a code to each step, because unseen steps can still occur (Krichevsky, Trofimov 1981).
        probabilities: NDArray[np.float64] = (seen + 0.5) / (seen + 0.5).sum()
        return probabilities


@dataclass(frozen=True)
class Container:
    """The contents of a container with a correct checksum.

    Codes (count, dim) of pictures of a shape (h, w, c), as steps out of 2**bits, in the entropy coder's words. digest:
    the encoder's.
    """

    bits: int
    dim: int
    shape: tuple[int, int, int]
    count: int
    digest: str
    words: NDArray[np.uint32]

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """The container in a file of that name. Raises DataError for anything else, VersionError for a newer one."""
        if data[: len(MAGIC)] != MAGIC:
            raise DataError(f"{name}: not a container of codes: name a file that 'simrec compress' wrote")
        content, checksum = data[:-CHECKSUM], data[-CHECKSUM:]
        if len(content) < HEADER.size or hashlib.sha256(content).digest() != checksum:
            raise DataError(f"{name}: cut short or altered (its checksum is wrong): compress the pictures again")
        _, version, bits, dim, *shape, count, digest = HEADER.unpack_from(content)
        if version > VERSION:
            raise VersionError(
                f"{name}: written in version {version} of the container, this simrec reads up to {VERSION}: "
                f"install a newer simrec"
            )
        if version < 1 or bits not in BITS or (len(content) - HEADER.size) % 4:
            raise DataError(
                f"{name}: no container that simrec writes (version {version}, {bits} bits a number, "
                f"{len(content) - HEADER.size} bytes of words): compress the pictures again"
            )
        words = np.frombuffer(content, "<u4", offset=HEADER.size).astype(np.uint32)
        return cls(bits, dim, tuple(shape), count, digest.hex(), words)

    def to_bytes(self) -> bytes:
        """The file."""
        digest = bytes.fromhex(self.digest)
        header = HEADER.pack(MAGIC, VERSION, self.bits, self.dim, *self.shape, self.count, digest)
        content = header + self.words.astype("<u4").tobytes()
        return content + hashlib.sha256(content).digest()


def picture_formats(images: Images, progress: Callable[[str, int], None]) -> list[dict[str, Any]]:
    """What images (n, h, w, c) take in common formats, one file per picture: rows as in `simrec.recommender.rates`.

    PNG and lossless WebP as small as they get; JPEG and WebP from their lowest quality up. progress: called with a
    format's name and how many pictures are done.
    """
    from PIL import Image

    formats: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {"format": "PNG", "optimize": True}),
        ("WebP lossless", {"format": "WEBP", "lossless": True, "quality": 100, "method": 6}),
        *((f"JPEG {q}", {"format": "JPEG", "quality": q, "optimize": True}) for q in (1, 20, 50, 80)),
        *((f"WebP {q}", {"format": "WEBP", "quality": q, "method": 6}) for q in (0, 20, 50, 80)),
    ]
    rows = []
    for name, options in formats:
        size, error = 0, 0.0
        for number, image in enumerate(images, 1):
            file = io.BytesIO()
            picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
            picture.save(file, **options)
            size += file.tell()
            if name != "PNG" and not options.get("lossless"):
                back = Image.open(file, formats=[options["format"]]).convert(picture.mode)
                error += float(((np.asarray(back, np.float64).reshape(image.shape) - image) ** 2).mean()) / 255**2
            if number % 512 == 0 or number == len(images):
                progress(name, number)
        rows.append({"name": name, "bits": 8 * size / len(images), "MSE": error / len(images)})
    return rows
