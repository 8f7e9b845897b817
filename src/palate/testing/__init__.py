"""The contract tests: what every model promises, as functions that anybody can run on a model of their own.

    import pytest
    from palate.testing import CHECKS, Case

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_contract(check):
        check(Case(MyModel))

A check returns nothing, or raises an `AssertionError` that says which promise was broken. The data are made-up people
with planted tastes (`planted`): whoever learns anything of them ranks what they chose later above what is as popular.
"""

from palate.testing.case import Case, planted
from palate.testing.checks import CHECKS, golden

__all__ = ["CHECKS", "Case", "golden", "planted"]
