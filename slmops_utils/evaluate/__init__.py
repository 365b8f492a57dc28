"""Measure teacher and students on the same rows, with intervals."""
