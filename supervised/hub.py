"""Adapters on the Hugging Face hub: a saved folder goes up, and comes down as a folder.

Only what an adapter consists of travels in either direction: its description, its safetensors file and its model card.
What was downloaded is then read like any other folder, with every check of that.
"""

from __future__ import annotations

import re
from pathlib import Path

from supervised.adapter_files import INDEX, read_adapter
from supervised.base import first_line
from supervised.errors import CheckpointError, ConfigError

CARD = "README.md"
WEIGHTS = "adapter-*.safetensors"
FILES = [INDEX, WEIGHTS, CARD]
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(source: Path | str) -> bool:
    """Return whether `source` has the form owner/name and is no folder here."""
    return not isinstance(source, Path) and _ID.fullmatch(source) is not None and not Path(source).is_dir()


def local_adapter(source: Path | str, revision: str | None = None) -> Path:
    """Return the folder of an adapter; one of the hub is downloaded to the hub's cache first.

    Args:
        source: a folder, or owner/name on the hub.
        revision: commit on the hub; None: the newest.

    Raises:
        CheckpointError: it is neither a folder nor on the hub, or the hub cannot be reached.
        ConfigError: a revision for a folder.
    """
    if not is_hub_id(source):
        if revision is not None:
            raise ConfigError(f"revision is {revision}, but {source} is a folder; leave the revision out.")
        return Path(source)
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(str(source), revision=revision, allow_patterns=FILES))
    except _refusals() as error:
        raise CheckpointError(
            f"{str(source)!r} is not a folder, and cannot be had from the hub ({first_line(error)}); "
            "give the folder or the id of a trained adapter."
        ) from error


def push_adapter(folder: Path | str, repository: str, private: bool = True, message: str = "Upload adapter") -> str:
    """Upload a folder that `save_pretrained` has written, and return the commit, for `revision`.

    The repository is made where there is none. Weights of an adapter that was there before are deleted in the same
    commit. The token is that of `hf auth login`, or HF_TOKEN.

    Args:
        folder: of the adapter; its model card may have been edited.
        repository: owner/name.
        private: whether a repository that is made here is private; one that exists stays what it is.
        message: of the commit.

    Raises:
        CheckpointError: `folder` is not a whole adapter, or the hub refuses it or cannot be reached.
        ConfigError: `repository` is not of the form owner/name.
    """
    if _ID.fullmatch(repository) is None:
        raise ConfigError(f"a repository on the hub is owner/name, got {repository!r}; use e.g. my-name/my-adapter.")
    from huggingface_hub import HfApi

    read_adapter(folder)
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            allow_patterns=FILES,
            delete_patterns=[WEIGHTS],
        )
    except _refusals() as error:
        raise CheckpointError(
            f"the adapter cannot be uploaded to {repository} ({first_line(error)}); "
            "check the name, the network and `hf auth login`."
        ) from error
    return str(commit.oid)


def _refusals() -> tuple[type[Exception], ...]:
    """Return what the hub's client raises; without a network that is an error of the HTTP library it uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)))
