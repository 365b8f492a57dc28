"""Stage one: a teacher writes synthetic data."""
