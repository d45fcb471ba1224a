"""A client, as the engine needs it, for Qdrant Edge, the library that Qdrant's server is built on.

It has no collections with names and no aliases: here a collection is a folder with a shard, and the aliases are a file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote
from weakref import WeakValueDictionary

import qdrant_edge as edge
from qdrant_client import models
from simrec_qdrant.engine import Qdrant

_open: WeakValueDictionary[Path, EdgeClient] = WeakValueDictionary()


class QdrantEdge(Qdrant):
    """A collection in Qdrant Edge: qdrant-edge:///FOLDER#NAME."""

    def _check_address(self) -> None:
        pass

    def _opened(self) -> Any:
        folder = Path(unquote(self._parts.path))
        if not folder.is_dir():
            raise self._gone()
        client = _open.get(folder)
        if client is None:
            client = _open[folder] = EdgeClient(folder)
        return client


class EdgeClient:
    """A folder of shards, which are closed when nothing refers to it any more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: dict[str, edge.EdgeShard] = {}

    def _aliases(self) -> dict[str, str]:
        path = self.folder / "aliases.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _shard(self, name: str) -> edge.EdgeShard:
        name = self._aliases().get(name, name)
        if name not in self._shards:
            if not (self.folder / name).is_dir():
                raise ValueError(f"Collection {name} not found")
            self._shards[name] = edge.EdgeShard.load(str(self.folder / name))
        return self._shards[name]

    def get_collections(self) -> Any:
        names = [path.name for path in self.folder.iterdir() if path.is_dir()] if self.folder.exists() else []
        return SimpleNamespace(collections=[SimpleNamespace(name=name) for name in names])

    def create_collection(
        self, name: str, vectors_config: dict[str, models.VectorParams], hnsw_config: models.HnswConfigDiff
    ) -> None:
        vectors = {key: _vector(one) for key, one in vectors_config.items()}
        (self.folder / name).mkdir(parents=True)
        config = edge.EdgeConfig(vectors=vectors, hnsw_config=_hnsw(hnsw_config))
        self._shards[name] = edge.EdgeShard.create(str(self.folder / name), config)

    def delete_collection(self, name: str) -> None:
        self._shard(name).close()
        del self._shards[name]
        shutil.rmtree(self.folder / name)

    def update_collection(self, name: str, hnsw_config: models.HnswConfigDiff) -> None:
        self._shard(name).close()
        self._shards[name] = edge.EdgeShard.load(
            str(self.folder / name), edge.EdgeConfig(hnsw_config=_hnsw(hnsw_config))
        )

    def update_collection_aliases(self, steps: Sequence[Any]) -> None:
        aliases = self._aliases()
        for step in steps:
            if isinstance(step, models.DeleteAliasOperation):
                del aliases[step.delete_alias.alias_name]
            else:
                aliases[step.create_alias.alias_name] = step.create_alias.collection_name
                self._shard(step.create_alias.collection_name).optimize()
        new = self.folder / "aliases.new"
        new.write_text(json.dumps(aliases))
        new.replace(self.folder / "aliases.json")

    def create_payload_index(self, name: str, key: str, kind: models.PayloadSchemaType, wait: bool) -> None:
        schema = getattr(edge.PayloadSchemaType, kind.value.capitalize())
        self._shard(name).update(edge.UpdateOperation.create_field_index(key, schema))

    def upsert(self, name: str, points: Sequence[models.PointStruct], wait: bool) -> None:
        ours = [edge.Point(one.id, one.vector, one.payload) for one in points]
        self._shard(name).update(edge.UpdateOperation.upsert_points(ours))

    def set_payload(self, name: str, payload: dict[str, Any], points: Any, wait: bool) -> None:
        if isinstance(points, models.FilterSelector):
            step = edge.UpdateOperation.set_payload_by_filter(_condition(points.filter), payload)
        else:
            step = edge.UpdateOperation.set_payload(points, payload)
        self._shard(name).update(step)

    def delete(self, name: str, points: models.FilterSelector, wait: bool) -> None:
        self._shard(name).update(edge.UpdateOperation.delete_points_by_filter(_condition(points.filter)))

    def retrieve(self, name: str, ids: list[str], with_payload: Any = True, with_vectors: bool = False) -> list[Any]:
        return _points(self._shard(name).retrieve(ids, with_payload, with_vectors))

    def count(self, name: str, count_filter: models.Filter, exact: bool) -> Any:
        return SimpleNamespace(count=self._shard(name).count(edge.CountRequest(exact, _condition(count_filter))))

    def scroll(
        self,
        name: str,
        scroll_filter: models.Filter,
        limit: int,
        offset: str | None = None,
        with_payload: list[str] | bool = True,
    ) -> tuple[list[Any], str | None]:
        ask = edge.ScrollRequest(offset, limit, _condition(scroll_filter), with_payload)
        points, after = self._shard(name).scroll(ask)
        return _points(points), None if after is None else str(after)

    def query_batch_points(self, name: str, requests: Sequence[models.QueryRequest]) -> list[Any]:
        asked = [
            edge.QueryRequest(
                limit=one.limit, query=edge.Query.Nearest(one.query, using=one.using), with_payload=one.with_payload,
                filter=None if one.filter is None else _condition(one.filter),
                params=edge.SearchParams(hnsw_ef=one.params.hnsw_ef, exact=one.params.exact),
            )
            for one in requests
        ]  # fmt: skip
        answers = self._shard(name).query_batch(edge.QueryBatchRequest(asked))
        return [SimpleNamespace(points=_points(answer)) for answer in answers]


def _points(points: Iterable[Any]) -> list[Any]:
    return [
        SimpleNamespace(id=str(one.id), payload=one.payload, vector=one.vector, score=getattr(one, "score", None))
        for one in points
    ]


def _vector(params: models.VectorParams) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(
        params.size, getattr(edge.Distance, params.distance.value),
        datatype=getattr(edge.VectorStorageDatatype, params.datatype.value.capitalize()),
    )  # fmt: skip


def _hnsw(params: models.HnswConfigDiff) -> edge.HnswIndexConfig:
    return edge.HnswIndexConfig(m=params.m, ef_construct=100, full_scan_threshold=10)


def _condition(one: Any) -> Any:
    """Converts a condition of qdrant-client to Edge's."""
    if isinstance(one, models.Filter):
        must, should, must_not = (
            None if some is None else list(map(_condition, some)) for some in (one.must, one.should, one.must_not)
        )
        return edge.Filter(must=must, should=should, must_not=must_not)
    if isinstance(one, models.HasIdCondition):
        return edge.HasIdCondition(set(one.has_id))
    if isinstance(one, models.IsEmptyCondition):
        return edge.IsEmptyCondition(one.is_empty.key)
    match, range_ = None, None
    if isinstance(one.match, models.MatchAny):
        match = edge.MatchAny(one.match.any)
    elif isinstance(one.match, models.MatchExcept):
        match = edge.MatchExcept(one.match.except_)
    if one.range:
        range_ = edge.RangeFloat(one.range.gte, one.range.gt, one.range.lte, one.range.lt)
    return edge.FieldCondition(one.key, match=match, range=range_)
