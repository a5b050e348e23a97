"""Servers and tiny models that measurements and tests share."""
