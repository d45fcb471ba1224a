"""Compressed codes come back as they were; cut, altered or another encoder's containers are refused."""

from __future__ import annotations

import numpy as np
import pytest

from simrec.compression import BITS, HEADER, CodeModel, Container, sparsity
from simrec.errors import DataError, RequestError, VersionError
from simrec.evaluation import squared_errors
from simrec.recommender import Recommender
from simrec.sources.load import Pictures
from simrec.verbs import decode as verbs


@pytest.mark.parametrize("bits", BITS)
def test_codes_to_container_to_codes_is_exact(demo: Recommender, pictures: Pictures, bits: int) -> None:
    codes = demo.encode(pictures.images[:1000])
    levels = demo.code_model.levels(codes, bits)
    assert levels.max() < 2**bits
    container = Container.from_bytes(demo.compress(pictures.images[:1000], bits), "it")
    assert (container.bits, container.dim, container.shape, container.count) == (bits, 64, (28, 28, 1), 1000)
    assert np.array_equal(demo.code_model.decoded(container.words, 1000, bits), levels)


def test_decompressing_twice_gives_the_same_pictures(demo: Recommender, pictures: Pictures) -> None:
    data = demo.compress(pictures.images[:100])
    assert data == demo.compress(pictures.images[:100])
    once, again = demo.decompress(data), demo.decompress(data)
    assert once.dtype == np.uint8
    assert once.shape == (100, 28, 28, 1)
    assert np.array_equal(once, again)


def test_more_bits_lose_less_and_eight_lose_what_the_encoder_does(demo: Recommender, pictures: Pictures) -> None:
    images = pictures.images[:1000]

    def lost(bits: int) -> tuple[int, float]:
        data = demo.compress(images, bits)
        rebuilt = demo.decompress(data).astype(np.float32) / np.float32(255)
        return len(data), squared_errors(rebuilt, images).mean()

    sizes, errors = zip(*(lost(bits) for bits in BITS), strict=True)
    assert list(sizes) == sorted(sizes)
    assert list(errors) == sorted(errors, reverse=True)
    alone = squared_errors(demo.reconstruct(images), images).mean()
    assert errors[-1] == pytest.approx(alone, rel=0.005)


def test_entropy_coding_saves_on_what_quantising_gives(demo: Recommender, pictures: Pictures) -> None:
    assert len(demo.compress(pictures.images[:1000], 8)) < 1000 * 64 * 0.95


def test_a_picture_takes_less_than_in_any_common_format(demo: Recommender, pictures: Pictures) -> None:
    rows = verbs.rates(demo, pictures.images[:300])
    names = [row["name"] for row in rows]
    assert names[:7] == [f"simrec, {bits} bits" for bits in BITS]
    assert {"PNG", "JPEG 1", "WebP 0", "WebP lossless"} <= set(names)
    ours, theirs = [row["bits"] for row in rows[:7]], [row["bits"] for row in rows[7:]]
    assert max(ours) < min(theirs)
    lossless = {row["name"]: row["MSE"] for row in rows}
    assert lossless["PNG"] == lossless["WebP lossless"] == 0


def test_pictures_unlike_any_seen_are_compressed_too(demo: Recommender) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 28, 28, 1), dtype=np.uint8)
    assert demo.decompress(demo.compress(noise)).shape == noise.shape


def test_a_container_can_hold_no_pictures(demo: Recommender, pictures: Pictures) -> None:
    assert demo.decompress(demo.compress(pictures.images[:0])).shape == (0, 28, 28, 1)


def test_the_container_is_what_its_page_says(demo: Recommender, pictures: Pictures) -> None:
    data = demo.compress(pictures.images[:3], 4)
    assert HEADER.size == 64
    assert data[:8] == b"\x89simrec\n"
    assert data[8:12] == bytes([1, 0, 4, 0])
    assert np.frombuffer(data, "<u4", 5, 12).tolist() == [64, 28, 28, 1, 3]
    assert data[32:64].hex() == demo.manifest.encoder.digest


@pytest.mark.parametrize("place", [0, 9, 40, 70, -1])
def test_an_altered_container_is_refused(demo: Recommender, pictures: Pictures, place: int) -> None:
    data = bytearray(demo.compress(pictures.images[:20]))
    data[place] ^= 1
    with pytest.raises(DataError, match="items: (not a container|cut short or altered)"):
        demo.decompress(bytes(data), "items")


@pytest.mark.parametrize("length", [0, 5, 8, 63, 64, 96, -1])
def test_a_cut_container_is_refused(demo: Recommender, pictures: Pictures, length: int) -> None:
    data = demo.compress(pictures.images[:20])
    with pytest.raises(DataError, match="items: (not a container|cut short)"):
        demo.decompress(data[:length], "items")


def test_a_newer_container_is_refused_naming_both_versions(demo: Recommender, pictures: Pictures) -> None:
    import hashlib

    content = bytearray(demo.compress(pictures.images[:2])[:-32])
    content[8] = 9
    with pytest.raises(VersionError, match="version 9 of the container, this simrec reads up to 1"):
        demo.decompress(bytes(content) + hashlib.sha256(content).digest())


def test_another_encoders_container_is_refused_naming_both(demo: Recommender, pictures: Pictures) -> None:
    from dataclasses import replace

    container = Container.from_bytes(demo.compress(pictures.images[:2]), "it")
    with pytest.raises(DataError, match=f"encoder abababababab, but demo has .*{demo.manifest.encoder.digest[:12]}"):
        demo.decompress(replace(container, digest="ab" * 32).to_bytes())


def test_bits_out_of_range_are_refused(demo: Recommender, pictures: Pictures) -> None:
    for bits in (1, 9):
        with pytest.raises(RequestError, match="2 to 8"):
            demo.compress(pictures.images[:2], bits)


def test_the_model_is_the_same_after_writing_and_reading() -> None:
    codes = np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32)
    codes[:, 4] = 0  # a number that never changes
    model = CodeModel.from_bytes(CodeModel.fit(codes).to_bytes(), 5)
    levels = model.levels(codes, 8)
    assert np.array_equal(model.decoded(model.encoded(levels, 8), 500, 8), levels)
    assert np.abs(model.codes(levels, 8) - codes).max() <= model.step.max()


def test_sparsity_is_the_share_next_to_nothing() -> None:
    codes = np.array([[0, 1, -2000, 0.5]], np.float32)
    assert sparsity(codes) == 0.75
    assert sparsity(np.zeros((3, 4), np.float32)) == 1
    assert sparsity(codes[:0]) == 0
