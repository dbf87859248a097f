"""Stage A: the training that teaches an adapter to hear and keeps the frozen base what it is."""
