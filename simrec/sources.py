"""The sources of pictures that simrec brings, offered through the same hook as anyone's; see `simrec.datasets`."""

from simrec.contracts import SourceSpec
from simrec.hookspecs import hookimpl


@hookimpl
def simrec_sources() -> list[SourceSpec]:
    """Two sources: fashion-mnist and folder."""
    return [
        SourceSpec(
            name="fashion-mnist",
            summary="70,000 grey pictures of clothes in ten classes; also :test, :small and :small-test.",
            factory="simrec.datasets:fashion_mnist",
        ),
        SourceSpec(
            name="folder",
            summary="A folder of pictures, labels as sub-folders, or one picture; its path alone will do.",
            factory="simrec.datasets:folder",
        ),
    ]
