"""Samples: what they are, where they come from, how their media are read."""
