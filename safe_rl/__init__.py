"""The verbs: every command a person runs is `python -m safe_rl.<verb>`."""

import os

# Before NumPy is imported anywhere: its matrices here are small, and BLAS threads waiting for each other cost up to
# fifty times the work itself when the cores are busy. What the user has set wins.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
