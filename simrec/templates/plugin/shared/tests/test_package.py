"""The encoder keeps simrec's contract: one case for each line of it."""

import pytest
from simrec.testing import Case, encoder_checks

from $package import simrec_encoders

CASES = [case for spec in simrec_encoders() for case in encoder_checks(spec)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_keeps_the_contract(case: Case) -> None:
    case()
