"""The sources that come with simrec, offered through the same hook as a plugin's; see `simrec.sources.load`."""

from simrec.contracts import SourceSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_sources() -> list[SourceSpec]:
    """Three sources: fashion-mnist, folder and list."""
    return [
        SourceSpec(
            name="fashion-mnist",
            summary="70,000 grey pictures of clothes in ten classes; also :test, :small and :small-test.",
            factory="simrec.sources.fashion_mnist:FashionMnist",
        ),
        SourceSpec(
            name="folder",
            summary="A folder of pictures (sub-folders are labels), or one picture; the path alone is enough.",
            factory="simrec.sources.files:folder",
        ),
        SourceSpec(
            name="list",
            summary="list:FILE: the pictures that a CSV, JSON Lines or Parquet file names in its column 'path'.",
            factory="simrec.sources.lists:List",
        ),
    ]
