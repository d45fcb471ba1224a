"""The figures are what independent implementations compute."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from sklearn import decomposition
from sklearn.cluster import KMeans
from sklearn.metrics import confusion_matrix, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import simrec.index
from simrec import evaluation, streams
from simrec.contracts import Dtype, Metric
from simrec.faults import collapsed
from simrec.index import Index, Together, kmeans
from simrec.recommender import Recommender
from simrec.sources import fashion_mnist
from simrec.sources.load import Pictures


@pytest.fixture(scope="module")
def codes(pictures: Pictures) -> np.ndarray:
    """Real codes: the first 20 principal components of 2,400 pictures."""
    return evaluation.principal_components(pictures.images[:2400], 20)[0].encode(pictures.images[:2400])


@pytest.fixture(scope="module")
def labels(pictures: Pictures) -> np.ndarray:
    return np.unique(pictures.labels[:2400], return_inverse=True)[1]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_ranking_figures_agree_with_scikit_learn(
    codes: np.ndarray, demo: Recommender, labels: np.ndarray, metric: str
) -> None:
    # The demo's codes are what cosine is for. Among the principal components two cosines can be closer than float32
    # tells apart, and then come in either order.
    catalogue, queries = np.split(codes if metric == "l2" else demo.codes[:2400], [2000])
    exam = evaluation.Exam(labels[2000:], labels[:2000], tuple(fashion_mnist.LABELS), leave_one_out=False)
    figures = exam.figures(Index(catalogue, metric), queries)  # type: ignore[arg-type]
    reference_metric = {"l2": "euclidean", "cosine": "cosine"}[metric]
    nearest = NearestNeighbors(n_neighbors=100, metric=reference_metric).fit(catalogue.astype(np.float64))
    hits = labels[nearest.kneighbors(queries.astype(np.float64), return_distance=False)] == labels[2000:, None]
    average = [np.mean([row[: r + 1].mean() for r in np.flatnonzero(row)]) if row.any() else 0 for row in hits]
    vote = KNeighborsClassifier(10, metric=reference_metric).fit(catalogue.astype(np.float64), labels[:2000])
    expected = {
        "P@1": hits[:, 0].mean(),
        "P@10": hits[:, :10].mean(),
        "P@100": hits.mean(),
        "MAP@100": np.mean(average),
        "10-NN": vote.score(queries.astype(np.float64), labels[2000:]),
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_leave_one_out_never_finds_the_query_itself(codes: np.ndarray) -> None:
    doubled = np.concatenate([codes[:50], codes[:50]])  # equal items, so the query need not come first
    rows = evaluation.neighbours(Index(doubled, "l2"), doubled, 5, leave_one_out=True)
    assert rows.shape == (100, 5)
    assert not (rows == np.arange(100)[:, None]).any()


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_codes_that_are_all_the_same_score_by_chance_whatever_the_order_of_the_items(
    labels: np.ndarray, leave_one_out: bool
) -> None:
    by_class = np.sort(labels)
    exam = evaluation.Exam(by_class, by_class, tuple(fashion_mnist.LABELS), leave_one_out)
    same = np.ones((len(by_class), 4), np.float32)
    figures = exam.figures(Index(same, "cosine"), same)
    assert figures["P@10"] == pytest.approx(0.1, abs=0.01)  # ten classes of about 240 items; 24,000 draws
    assert figures["MAP@100"] < 0.2


def test_codes_that_share_one_large_number_have_not_collapsed(codes: np.ndarray) -> None:
    large = np.full((len(codes), 1), 1e6, np.float32)
    assert not collapsed(np.concatenate([large, codes / np.abs(codes).max()], axis=1))
    assert collapsed(np.repeat(codes[:1], 3, axis=0))


def test_a_perfect_ranking_scores_one_and_a_hopeless_one_zero() -> None:
    asked = np.array([1, 2])
    perfect = evaluation.ranking_figures(np.repeat(asked[:, None], 100, axis=1), asked)
    assert set(perfect.values()) == {1.0}
    hopeless = evaluation.ranking_figures(np.zeros((2, 100), np.int64), asked)
    assert set(hopeless.values()) == {0.0}


def test_average_precision_by_hand() -> None:
    found = np.array([[1, 0, 1, 0]])  # hits at ranks 1 and 3: (1/1 + 2/3) / 2
    assert evaluation.ranking_figures(found, np.array([1]))["MAP@100"] == pytest.approx((1 + 2 / 3) / 2)


def test_what_classes_are_answered_with_agrees_with_scikit_learn(codes: np.ndarray, labels: np.ndarray) -> None:
    found = labels[:2000][evaluation.neighbours(Index(codes[:2000], "l2"), codes[2000:], 20, leave_one_out=False)]
    expected = confusion_matrix(np.repeat(labels[2000:], 10), found[:, :10].ravel(), normalize="true")
    np.testing.assert_allclose(evaluation.confusion(found, labels[2000:], 10), expected, atol=1e-12)


def test_answers_without_a_label_count_for_no_class() -> None:
    shares = evaluation.confusion(np.array([[0, -1], [1, 0]]), np.array([0, -1]), 2)
    assert shares[0].tolist() == [0.5, 0.0]
    assert np.isnan(shares[1]).all()  # no query of that class


def test_classes_without_queries_are_left_out(codes: np.ndarray) -> None:
    labels = np.arange(100) % 3
    exam = evaluation.Exam(labels[labels < 2], labels, ("a", "b", "c"), leave_one_out=False)
    figures = exam.figures(Index(codes[:100], "l2"), codes[:100][labels < 2])
    assert list(figures["classes"]) == ["a", "b"]
    assert {pair["query"] for pair in figures["confused"]} <= {"a", "b"}


def test_clustering_agrees_with_scikit_learns_nmi(codes: np.ndarray, labels: np.ndarray) -> None:
    mine = evaluation.clustering(codes, labels, "l2")
    expected = normalized_mutual_info_score(labels, kmeans(codes, 10, "l2"))
    assert mine == pytest.approx(expected, abs=1e-6)
    # Another k-means from other starts: the same quality, not the same clusters.
    reference = KMeans(10, n_init=3, random_state=0).fit_predict(codes)
    assert mine == pytest.approx(normalized_mutual_info_score(labels, reference), abs=0.04)


def test_pca_agrees_with_scikit_learn(pictures: Pictures) -> None:
    flat = pictures.images[:2000].reshape(2000, -1) / 255
    reference = decomposition.PCA(8, svd_solver="full").fit(flat)
    pca, metric = evaluation.principal_components(pictures.images[:2000], 8)
    codes = pca.encode(pictures.images[:2000])
    assert metric == "l2"
    np.testing.assert_allclose(np.abs(codes), np.abs(reference.transform(flat)), atol=1e-3)


def test_distances_and_scores_mean_what_they_say(codes: np.ndarray) -> None:
    query, catalogue = codes[:1], codes[1:200]
    index = Index(catalogue, "l2")
    rows, distances = index.search(query, 5)
    expected = np.linalg.norm(catalogue - query, axis=1)
    np.testing.assert_allclose(distances[0], np.sort(expected)[:5], rtol=1e-4)
    assert list(rows[0]) == list(np.argsort(expected)[:5])
    np.testing.assert_allclose(index.scores(distances), 1 / (1 + distances))

    index = Index(catalogue, "cosine")
    _, distances = index.search(query, 5)
    cosine = catalogue @ query[0] / (np.linalg.norm(catalogue, axis=1) * np.linalg.norm(query))
    np.testing.assert_allclose(1 - distances[0], np.sort(cosine)[::-1][:5], atol=1e-5)
    np.testing.assert_allclose(index.scores(distances), 1 - distances)


def opened(index: Index, path: Path, removed: list[int] | None = None) -> Index:
    """The index, written to a file and read again."""
    path.write_bytes(index.to_bytes())
    kept = np.array(removed or [], np.int64)
    return Index.opened(path.read_bytes(), path, len(index), index.codes.shape[1], index.metric, index.dtype, kept)


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_removed_rows_are_never_found_and_cost_no_answer(
    codes: np.ndarray, metric: Metric, dtype: Dtype, tmp_path: Path
) -> None:
    index = Index(codes[:500], metric, dtype)
    rows, _ = index.search(codes[500:520], 100)
    removed = sorted({int(row) for row in rows[:, :3].ravel()})
    found, distances = opened(index, tmp_path / "codes.faiss", removed).search(codes[500:520], 20)
    assert found.shape == (20, 20)
    assert (np.diff(distances, axis=1) >= 0).all()
    for answer, all_rows in zip(found.tolist(), rows.tolist(), strict=True):
        left = [row for row in all_rows if row not in removed]
        assert set(answer[:10]) <= set(left[:12])  # of equal distances either may come first
        assert not set(answer) & set(removed)
    everything, _ = opened(index, tmp_path / "codes.faiss", removed).search(codes[500:501], 1000)
    assert sorted(everything[0].tolist()) == [row for row in range(500) if row not in removed]


@pytest.mark.parametrize("large", [0, simrec.index.LARGE], ids=["at once", "in turn"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_segments_together_find_what_one_index_of_all_finds(
    codes: np.ndarray, dtype: Dtype, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simrec.index, "LARGE", large)
    spread_over: list[int] = []
    monkeypatch.setattr(
        simrec.index, "spread", lambda work, over: spread_over.append(len(over)) or streams.spread(work, over)
    )
    whole = Index(codes[:500], "cosine", dtype)
    bounds = [0, 120, 121, 400, 500]
    parts = [Index(codes[a:b], "cosine", dtype, trained=codes[:500]) for a, b in zip(bounds, bounds[1:], strict=False)]
    together = Together(parts)
    assert len(together) == 500
    expected, found = whole.search(codes[500:520], 9), together.search(codes[500:520], 9)
    assert np.allclose(expected[1], found[1], atol=1e-6)
    if dtype != "binary":  # whose distances are often equal
        assert (expected[0] == found[0]).mean() > 0.99
    assert np.allclose(together.codes, whole.codes, atol=1e-6)  # BLAS rounds by the number of rows
    assert spread_over == ([4] if large == 0 else [])


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_an_index_is_the_same_after_writing_and_reading(
    codes: np.ndarray, metric: Metric, dtype: Dtype, tmp_path: Path
) -> None:
    index = Index(codes[:500], metric, dtype)
    again = opened(index, tmp_path / "codes.faiss")
    for before, after in zip(index.search(codes[500:520], 7), again.search(codes[500:520], 7), strict=True):
        assert np.array_equal(before, after)
    assert np.array_equal(again.codes, index.codes)


@pytest.mark.parametrize("together", [1, 3, 100, 256])
def test_bits_depend_on_no_code_beside(demo: Recommender, together: int) -> None:
    codes = np.asarray(demo.codes[:999])  # an odd number: each median is some code's own number
    index = Index(codes[:0], "cosine", "binary", trained=codes)
    for start in range(0, len(codes), together):
        index.add(codes[start : start + together])
    rows = np.arange(len(codes))
    assert np.array_equal(index.packed(rows), Index(codes, "cosine", "binary", trained=codes).packed(rows))


def test_int8_finds_what_float32_finds_and_64_bits_beat_raw_pixels(demo: Recommender, labels: np.ndarray) -> None:
    codes, pixels = demo.codes[:2400], evaluation.pixels(demo.originals(demo.catalogue.at(range(2400))))

    def precision(codes: np.ndarray, dtype: Dtype) -> float:
        found = evaluation.neighbours(Index(codes, "cosine", dtype), codes, 10, leave_one_out=True)
        return evaluation.ranking_figures(labels[found], labels)["P@10"]

    exact = precision(codes, "float32")
    assert precision(codes, "int8") > exact - 0.003
    assert exact - 0.01 > precision(codes, "binary") > precision(pixels, "float32")


def test_an_index_is_as_small_as_its_dtype(demo: Recommender) -> None:
    sizes = {dtype: len(Index(demo.codes, "cosine", dtype).to_bytes()) / len(demo.codes) for dtype in get_args(Dtype)}
    assert sizes == pytest.approx({"float32": 256, "int8": 64, "binary": 8}, abs=3)


def test_kept_codes_are_the_codes_as_far_as_the_dtype_keeps_them(demo: Recommender) -> None:
    unit = demo.codes[:1000] / np.linalg.norm(demo.codes[:1000], axis=1, keepdims=True)
    # Of the signs of a random rotation it is sqrt(2 / pi) where numbers are normally distributed.
    for dtype, cosine in (("float32", 1), ("int8", 1), ("binary", (2 / np.pi) ** 0.5)):
        kept = Index(demo.codes[:1000], "cosine", dtype).codes  # type: ignore[arg-type]
        mean = ((kept * unit).sum(axis=1) / np.linalg.norm(kept, axis=1)).mean()
        assert mean == pytest.approx(cosine, abs=0.02 if dtype == "binary" else 0.001), dtype
