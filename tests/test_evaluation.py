"""The figures are what independent implementations compute."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import decomposition
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from simrec import evaluation
from simrec.datasets import Pictures
from simrec.index import Index, kmeans, scores


@pytest.fixture(scope="module")
def codes(pictures: Pictures) -> np.ndarray:
    """Real codes: the first 20 principal components of 2,400 pictures."""
    return evaluation.PCA(pictures.images[:2400], 20).encode(pictures.images[:2400])


@pytest.fixture(scope="module")
def labels(pictures: Pictures) -> np.ndarray:
    return np.unique(pictures.labels[:2400], return_inverse=True)[1]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_ranking_figures_agree_with_scikit_learn(codes: np.ndarray, labels: np.ndarray, metric: str) -> None:
    catalogue, queries = codes[:2000], codes[2000:]
    figures = evaluation.retrieval(
        queries,
        catalogue,
        metric,
        labels[2000:],
        labels[:2000],
        leave_one_out=False,  # type: ignore[arg-type]
    )
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
    # Two distances closer than float32 tells apart may come in either order: one query in 400 may differ by a rank.
    assert figures == pytest.approx(expected, abs=1e-6 if metric == "l2" else 3e-5)


def test_leave_one_out_never_finds_the_query_itself(codes: np.ndarray) -> None:
    doubled = np.concatenate([codes[:50], codes[:50]])  # equal items, so the query need not come first
    rows = evaluation.neighbours(Index(doubled, "l2"), doubled, 5, leave_one_out=True)
    assert rows.shape == (100, 5)
    assert not (rows == np.arange(100)[:, None]).any()


def test_a_perfect_ranking_scores_one_and_a_hopeless_one_nothing() -> None:
    asked = np.array([1, 2])
    perfect = evaluation.ranking_figures(np.repeat(asked[:, None], 100, axis=1), asked)
    assert set(perfect.values()) == {1.0}
    hopeless = evaluation.ranking_figures(np.zeros((2, 100), np.int64), asked)
    assert set(hopeless.values()) == {0.0}


def test_average_precision_by_hand() -> None:
    found = np.array([[1, 0, 1, 0]])  # hits at ranks 1 and 3: (1/1 + 2/3) / 2
    assert evaluation.ranking_figures(found, np.array([1]))["MAP@100"] == pytest.approx((1 + 2 / 3) / 2)


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
    codes = evaluation.PCA(pictures.images[:2000], 8).encode(pictures.images[:2000])
    np.testing.assert_allclose(np.abs(codes), np.abs(reference.transform(flat)), atol=1e-3)


def test_distances_and_scores_mean_what_they_say(codes: np.ndarray) -> None:
    query, catalogue = codes[:1], codes[1:200]
    rows, distances = Index(catalogue, "l2").search(query, 5)
    expected = np.linalg.norm(catalogue - query, axis=1)
    np.testing.assert_allclose(distances[0], np.sort(expected)[:5], rtol=1e-4)
    assert list(rows[0]) == list(np.argsort(expected)[:5])
    np.testing.assert_allclose(scores(distances, "l2"), 1 / (1 + distances))

    _, distances = Index(catalogue, "cosine").search(query, 5)
    cosine = catalogue @ query[0] / (np.linalg.norm(catalogue, axis=1) * np.linalg.norm(query))
    np.testing.assert_allclose(1 - distances[0], np.sort(cosine)[::-1][:5], atol=1e-5)
    np.testing.assert_allclose(scores(distances, "cosine"), 1 - distances)


def test_an_index_survives_its_bytes(codes: np.ndarray) -> None:
    index = Index(codes[:500], "cosine")
    again = Index.from_bytes(index.to_bytes(), "cosine")
    assert np.array_equal(again.search(codes[500:520], 7)[0], index.search(codes[500:520], 7)[0])
