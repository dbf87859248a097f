"""Audio projectors: from the encoder's tokens to a few tokens of the size and width of the base's text embeddings."""
