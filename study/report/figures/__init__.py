"""Figures: each is a computed value first (a dataclass) and a drawing on given axes second."""
