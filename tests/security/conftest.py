"""Fixtures of the tests of security."""

from tests.helpers.canary import nest

__all__ = ["nest"]
