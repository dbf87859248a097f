"""Frozen audio encoders: clips in, tokens and one embedding per clip out."""
