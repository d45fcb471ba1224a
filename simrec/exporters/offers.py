"""The exporters that simrec brings, offered through the same hook as anyone's."""

from simrec.contracts import ExporterSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_exporters() -> list[ExporterSpec]:
    """Three files: npy, parquet and csv."""
    return [
        ExporterSpec(
            name="npy",
            summary="The codes as a numpy array, the items beside it as JSON lines.",
            factory="simrec.exporters.files:npy",
            endings=(".npy",),
        ),
        ExporterSpec(
            name="parquet",
            summary="One table: id, label, source and the code as a list of fixed size.",
            factory="simrec.exporters.files:parquet",
            endings=(".parquet",),
        ),
        ExporterSpec(
            name="csv",
            summary="One table: id, label, source, and a column for each number of a code.",
            factory="simrec.exporters.files:csv_",
            endings=(".csv",),
        ),
    ]
