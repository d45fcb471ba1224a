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
            summary="list:FILE.csv, pictures that a CSV file names in its column path; also id and label.",
            factory="simrec.sources.files:List",
        ),
    ]
