"""An agent on disk without pickle: what it consists of, and where its environments stand."""
