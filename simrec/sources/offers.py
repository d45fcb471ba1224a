"""The sources of pictures that simrec brings, offered through the same hook as anyone's; see `simrec.sources.load`."""

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
            summary="A folder of pictures, labels as sub-folders, or one picture; its path alone will do.",
            factory="simrec.sources.files:folder",
        ),
        SourceSpec(
            name="list",
            summary="list:FILE, pictures that a CSV, JSON Lines or Parquet file names in its column path.",
            factory="simrec.sources.lists:List",
        ),
    ]
