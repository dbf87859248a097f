"""The folder of a run: what was asked, on which machine, what came out.

config.yaml     the complete resolved configuration of the run; `--config` reads it back
config-*.yaml   that of each command that added to the run, such as certify
run.json        command, configuration, versions, seeds, hashes, machine; earlier commands in the folder are kept in it
metrics.jsonl   one line a record while the run goes on
tensorboard/    the same records as events, or wandb/ for Weights & Biases (`tracker`)
metrics.json    the final figures
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from safe_rl.options import to_dict, to_yaml
from supervised.errors import ConfigError
from supervised.files import write_json, write_text
from supervised.processes import Processes

if TYPE_CHECKING:
    from supervised.trackers import Tracker

PACKAGES = (
    "safe-rl-audio",
    "torch",
    "transformers",
    "accelerate",
    "gymnasium",
    "stable-baselines3",
    "optuna",
    "numpy",
    "safetensors",
)


OWNER = "train_policy"
"""The command whose configuration is the run's; until it comes, the command that began the folder is."""


class RunFolder:
    """A run's folder, open for writing; a context manager that closes the trackers.

    Where processes share the run, only the main one writes; on the others, nothing happens.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._writes = Processes.current().main
        self._trackers: dict[str, Tracker] = {}
        self._tracker = "tensorboard"
        self._facts: dict[str, Any] = {}

    def begin(self, config: Any, verb: str, seeds: list[int]) -> None:
        """Write the configuration and `run.json`.

        Raises:
            ConfigError: the path is taken by a file.
        """
        if not self._writes:
            return
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"run_dir: {self.path} is a file; give a folder.")
        text = to_yaml(config)
        self._tracker = to_dict(config).get("tracker", self._tracker)
        earlier = self._earlier()
        file = _config_file(verb, earlier)
        write_text(self.path / file, text)
        self._facts = {
            "verb": verb,
            "command": [sys.executable, *sys.orig_argv[1:]],
            "started": _now(),
            "finished": None,
            "seeds": seeds,
            "config": to_dict(config),
            "config_file": file,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "hashes": {},
            "git": _git(),
            "versions": versions(),
            "machine": {
                "system": platform.platform(),
                "processor": platform.machine(),
                "cores": os.cpu_count(),
            },
            "earlier": earlier,
        }
        write_json(self.path / "run.json", self._facts)

    def note(self, **hashes: str) -> None:
        """Add hashes of what the run is built on to `run.json`."""
        if not self._writes:
            return
        self._facts["hashes"] |= hashes
        write_json(self.path / "run.json", self._facts)

    def record(self, step: int, values: Mapping[str, float], part: str = "") -> None:
        """Append one line to `metrics.jsonl` and give the same scalars to the tracker.

        Args:
            step: the step of the part that the values belong to.
            values: scalars by name, such as `train/loss`.
            part: what of the run reports, such as `stage_a` or `seed-0`.
        """
        if not self._writes:
            return
        line: dict[str, Any] = {"time": round(time.time(), 3), "part": part, "step": step}
        line |= {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._writer(part).add(step, values)

    def rewind(self, part: str, step: int) -> None:
        """Forget what `part` recorded after `step`: it goes on from there, and nothing shall stand twice."""
        if not self._writes:
            return
        path = self.path / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [
                line for line in lines if (told := _record(line)) and not (told["part"] == part and told["step"] > step)
            ]
            write_text(path, "".join(f"{line}\n" for line in kept))
        if (self.path / self._tracker / part).exists():
            self._writer(part, purge_step=step + 1)

    def finish(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Write `metrics.json`, if there are final figures, and the time of the end into `run.json`."""
        if not self._writes:
            return
        if metrics is not None:
            write_json(self.path / "metrics.json", metrics)
        self._facts["finished"] = _now()
        write_json(self.path / "run.json", self._facts)

    def close(self) -> None:
        """Close the trackers."""
        while self._trackers:
            self._trackers.popitem()[1].close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OSError:
            if error is None:  # else the first error is the one to report
                raise

    def _writer(self, part: str, purge_step: int | None = None) -> Tracker:
        if part not in self._trackers:
            from supervised.trackers import open_tracker

            self._trackers[part] = open_tracker(self._tracker, self.path, part, purge_step)
        return self._trackers[part]

    def _earlier(self) -> list[dict[str, Any]]:
        """Return what earlier commands left in `run.json`, the latest last."""
        try:
            before = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            return [entry for entry in (*before.pop("earlier", []), before) if isinstance(entry, dict)]
        except (OSError, ValueError, AttributeError, TypeError):
            return []  # nothing there, or a damaged file: the history is a convenience, not an input


def _config_file(verb: str, earlier: list[dict[str, Any]]) -> str:
    """Return where a command's configuration goes: one that adds to a run leaves the run's own as it is."""
    written = [entry.get("verb") for entry in earlier if entry.get("config_file", "config.yaml") == "config.yaml"]
    return "config.yaml" if verb in (OWNER, *written[-1:]) or not written else f"config-{verb}.yaml"


def _record(line: str) -> dict[str, Any] | None:
    """Return what a line of `metrics.jsonl` tells; None: it is no record, as a kill may have cut the last one."""
    try:
        told = json.loads(line)
        return {"part": str(told["part"]), "step": float(told["step"])}
    except (ValueError, KeyError, TypeError):
        return None


def versions() -> dict[str, str | None]:
    """Return the version of everything that a figure may depend on."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Return the commit of the checkout that this package runs from and whether it is changed; None outside of one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit, status = (
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed": bool(status.strip())}
