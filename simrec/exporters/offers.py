"""The exporters that come with simrec, offered through the same hook as a plugin's."""

from simrec.contracts import ExporterSpec
from simrec.hookspecs import hookimpl

ROOM = "simrec.exporters"


@hookimpl
def simrec_exporters() -> list[ExporterSpec]:
    """Ten formats."""
    return [
        ExporterSpec(
            name="parquet",
            summary="One table, the code as a list of fixed size.",
            factory=f"{ROOM}.parquet:write",
            reader=f"{ROOM}.parquet:read",
            endings=(".parquet",),
            streams=True,
        ),
        ExporterSpec(
            name="arrow",
            summary="One table in Arrow's file format, the code as a list of fixed size.",
            factory=f"{ROOM}.arrow:write",
            reader=f"{ROOM}.arrow:read",
            endings=(".arrow",),
            streams=True,
        ),
        ExporterSpec(
            name="npy",
            summary="The codes as a numpy array, the items beside it as JSON lines.",
            factory=f"{ROOM}.npy:write",
            reader=f"{ROOM}.npy:read",
            endings=(".npy",),
            streams=True,
        ),
        ExporterSpec(
            name="npz",
            summary="One numpy array per column.",
            factory=f"{ROOM}.npz:write",
            reader=f"{ROOM}.npz:read",
            endings=(".npz",),
            streams=True,
        ),
        ExporterSpec(
            name="csv",
            summary="One line per item, one column per number of a code; --codes text: as pgvector reads it.",
            factory=f"{ROOM}.delimited:write",
            reader=f"{ROOM}.delimited:read",
            endings=(".csv",),
            texts=True,
            streams=True,
        ),
        ExporterSpec(
            name="jsonl",
            summary="One JSON object per item, the code as a list.",
            factory=f"{ROOM}.json_lines:write",
            reader=f"{ROOM}.json_lines:read",
            endings=(".jsonl",),
            streams=True,
        ),
        ExporterSpec(
            name="safetensors",
            summary="The codes as a tensor, the items beside it as JSON lines.",
            factory=f"{ROOM}.tensors:write",
            reader=f"{ROOM}.tensors:read",
            endings=(".safetensors",),
            streams=True,
        ),
        ExporterSpec(
            name="faiss",
            summary="A flat FAISS index, ready to search, the items beside it as JSON lines.",
            factory=f"{ROOM}.flat_index:write",
            reader=f"{ROOM}.flat_index:read",
            endings=(".faiss",),
            dtypes=("float32",),
            unit=True,
            streams=True,
        ),
        ExporterSpec(
            name="lance",
            summary="A folder with one table, the code as a list of fixed size; needs simrec[lance].",
            factory=f"{ROOM}.lance_folder:write",
            reader=f"{ROOM}.lance_folder:read",
            endings=(".lance",),
        ),
        ExporterSpec(
            name="projector",
            summary="For TensorBoard's Embedding Projector: codes, items, previews and its config.",
            factory=f"{ROOM}.projector:write",
            reader=f"{ROOM}.projector:read",
            endings=(".tsv",),
            preview=True,
        ),
    ]
