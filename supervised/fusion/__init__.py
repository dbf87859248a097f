"""Fusion: what the hidden states of the prompt take over from the audio tokens."""
