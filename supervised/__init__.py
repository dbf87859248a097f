"""The model and how Stage A trains it: base, audio encoder, adapter, losses, loop, data and the embedded demo."""
