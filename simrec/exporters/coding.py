"""Codes in the forms that an export can have: with a length of 1, in fewer bytes, as texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simrec.catalogue.tables import coded
from simrec.contracts import CodeDtype, Codes
from simrec.errors import RequestError
from simrec.exporters.content import Content, codes

LEVELS = 127
"""The largest number of an int8 code."""


@dataclass(frozen=True)
class Coding:
    """How codes are written: see `ExportRecord`. text: whether each finally becomes one text."""

    normalised: bool
    dtype: CodeDtype
    scale: float | None
    text: bool

    def schema(self, schema: Any) -> Any:
        """A pyarrow Schema whose codes are float32 lists, with the codes' type changed to that of `batch`."""
        import pyarrow as pa

        place = schema.get_field_index("code")
        kind = pa.string() if self.text else pa.list_(pa.type_for_alias(self.dtype), schema.field(place).type.list_size)
        return schema.set(place, pa.field("code", kind, nullable=False))

    def batch(self, batch: Any, content: Content) -> Any:
        """A pyarrow RecordBatch with its codes in this form. content: gets the rows added."""
        import pyarrow as pa

        from simrec.exporters.delimited import code_texts

        if self.normalised or self.dtype != "float32":
            batch = _with_codes(batch, coded(self._codes(codes(batch))))
        content.add(batch)
        return _with_codes(batch, code_texts(batch.column("code")).cast(pa.string())) if self.text else batch

    def _codes(self, codes: Codes) -> NDArray[Any]:
        if self.normalised:
            codes = normalised(codes)
        if self.dtype == "int8":
            assert self.scale is not None
            levels: NDArray[np.int8] = np.rint(codes / np.float32(self.scale)).clip(-LEVELS, LEVELS).astype(np.int8)
            return levels
        with np.errstate(over="ignore"):
            made = codes.astype(self.dtype)
        if not np.isfinite(made).all():
            raise RequestError(
                f"--dtype {self.dtype}: the number {np.abs(codes).max():,.0f} of a code is too large for it: add "
                f"--normalize, or take float32"
            )
        return made


class Largest:
    """The largest absolute number in codes, for the scale of int8."""

    def __init__(self, *, normalised: bool) -> None:
        self._normalised, self._largest = normalised, 0.0

    def add(self, batch: Any) -> None:
        """Takes a pyarrow RecordBatch into account."""
        numbers = normalised(codes(batch)) if self._normalised else codes(batch)
        self._largest = max(self._largest, float(np.abs(numbers).max(initial=0)))

    @property
    def scale(self) -> float:
        """What to multiply int8 numbers by to get codes back."""
        return float(np.float32(self._largest / LEVELS)) or 1.0


def normalised(codes: Codes) -> Codes:
    """Codes (n, dim) divided by their lengths; a code of zeros stays as it is."""
    lengths = np.linalg.norm(codes, axis=1, keepdims=True)
    made: Codes = np.divide(codes, lengths, out=np.zeros_like(codes), where=lengths > 0)
    return made


def _with_codes(batch: Any, column: Any) -> Any:
    place = batch.schema.get_field_index("code")
    return batch.set_column(place, batch.schema.field(place).with_type(column.type), column)
