"""Diagnostics: what the adapter does inside the base, in figures, and monitors that say when it is too much."""
