"""Contracts: what every part of a kind keeps, as checks that run on anybody's part.

``dreammatcher check my_module:Class`` runs them, and so do the tests, on every registered part.
"""

from framework.contracts.base import Broken, Check, NotAsked, Verdict, expect, judge
from framework.contracts.checks import checks_of

__all__ = ["Broken", "Check", "NotAsked", "Verdict", "checks_of", "expect", "judge"]
