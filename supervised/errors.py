"""Errors that a user can mend. Each message is one line: what was given, what is allowed, what to do.

Commands print the message and end with a non-zero exit code; a traceback is kept for our own mistakes.
"""

from __future__ import annotations


class SafeError(Exception):
    """Something the user gave cannot be worked with; the message says why and what to do."""


class ConfigError(SafeError, ValueError):
    """A configuration value is unknown, out of range or contradicts another."""


class DataError(SafeError, ValueError):
    """A manifest, a clip or a picture is missing, damaged or not of the promised form."""


class ModelError(SafeError, ValueError):
    """A base, an encoder or an adapter cannot be loaded or does not fit the others."""


class CheckpointError(SafeError, ValueError):
    """A checkpoint is missing, damaged or belongs to another run."""


class TableError(SafeError, ValueError):
    """An outcome table is missing, damaged, of another version or of another adapter."""


class ProcessError(SafeError, RuntimeError):
    """A process of the run ended while others still needed it."""
