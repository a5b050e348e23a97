"""The mathematics of a comparison: pure functions of arrays and numbers."""
