"""The contract tests: the promises of every model, as functions that you can run on a model of your own.

    import pytest
    from palate.testing import CHECKS, Case

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
    def test_contract(check):
        check(Case(MyModel))

A check returns nothing, or raises an `AssertionError` that names the broken promise. The data (`planted`) are synthetic
users with planted tastes: a model that learns them ranks a user's held-out choices above equally popular items.
"""

from palate.testing.case import Case, planted
from palate.testing.checks import CHECKS, golden

__all__ = ["CHECKS", "Case", "golden", "planted"]
