"""The model card of an adapter: what it is, what it fits, and what was measured; nothing that was not is in it.

In: the adapter's configuration, what it fits, and figures. Out: Markdown with the hub's header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supervised.adapter_files import Fit
from supervised.config import ModelConfig
from supervised.encoders.loading import pinned
from supervised.errors import DataError
from supervised.hub import is_hub_id

NOT_MEASURED = "not measured"
POLICIES = {"never": "the base alone", "always": "with the adapter"}
"""Policies of a run that tell what the adapter does, whoever decides."""
FIGURES = ("accuracy", "audio_accuracy", "retention_score", "drop", "harm", "latency_ms")
"""What is taken over of each of them."""


def read_metrics(source: Mapping[str, Any] | Path | str | None) -> Mapping[str, Any]:
    """Return figures by name; a path is that of a JSON file such as a run's metrics.json.

    Of the policies of a run those are taken that never and always listen: the base, and the base with the adapter.

    Raises:
        DataError: the file is missing, or holds no JSON object.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return _of_run(source) if isinstance(source.get("policies"), Mapping) else source
    try:
        metrics = json.loads(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"metrics {str(source)!r} cannot be read as JSON ({error}); give a metrics.json.") from error
    if not isinstance(metrics, dict):
        raise DataError(f"metrics {str(source)!r} hold no JSON object; give a metrics.json.")
    return read_metrics(metrics)


def _of_run(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a run's final figures say about the adapter."""
    return {
        words: {name: figures[name] for name in FIGURES if name in figures}
        for policy, words in POLICIES.items()
        if isinstance(figures := metrics["policies"].get(policy), Mapping)
    }


def model_card(
    config: ModelConfig, fit: Fit, parameters: int, metrics: Mapping[str, Any], licence: str | None = None
) -> str:
    """Return the card.

    Args:
        config: the adapter's.
        fit: what it was trained on.
        parameters: how many numbers the adapter has.
        metrics: from `read_metrics`; nested ones get longer names, and what is no number is passed over.
        licence: the hub's name of one, e.g. apache-2.0; None: none was chosen.
    """
    figures = list(_figures(metrics))
    told = "Scores, drops and harm are fractions; brackets hold intervals of 95 %.\n\n"
    sections = [
        _header(config, licence),
        f"# Ears for {_name(config.base)}",
        "An adapter that lets a frozen vision-language model hear. Base and encoder are not in it, and are not changed "
        "by it: without audio, or with the gate at 0, every answer is the base's, bit for bit.",
        _table(("", ""), _facts(config, fit, parameters)),
        "## Use",
        "```python\nfrom supervised.safe_model import SafeModel\n\n"
        'model = SafeModel.from_pretrained("owner/name", revision="<commit>")\n```',
        "Loading refuses a base or an encoder with other weights than those named above.",
        "## Figures",
        told + _table(("figure", "value"), figures) if figures else f"{NOT_MEASURED.capitalize()}.",
        "## Licence",
        f"{licence}, for the adapter. Base and encoder have licences of their own."
        if licence
        else "None was chosen yet. Whoever publishes this adapter chooses one that those of base and encoder allow.",
    ]
    return "\n\n".join(sections) + "\n"


def _header(config: ModelConfig, licence: str | None) -> str:
    """Return the YAML that the hub reads."""
    lines = ["library_name: safe-rl-audio", "tags: [audio, vision-language, adapter]"]
    if licence is not None:
        lines.append(f"license: {json.dumps(licence)}")
    if is_hub_id(config.base):
        lines += [f"base_model: {config.base}", "base_model_relation: adapter"]
    return "\n".join(["---", *lines, "---"])


def _facts(config: ModelConfig, fit: Fit, parameters: int) -> Iterator[tuple[str, str]]:
    """Yield what the adapter is and fits."""
    newest = "not pinned"
    yield "base", _name(config.base)
    yield "base revision", config.base_revision or newest
    yield "base weights, SHA-256", f"`{fit.base_sha256}`"
    if config.trust_remote_code:
        yield "base's own code", "is needed: name the base and trust it with `base=..., trust_remote_code=True`"
    yield "width of the base's embeddings", str(fit.hidden_size)
    yield "encoder", _name(config.encoder)
    yield "encoder revision", config.encoder_revision or newest
    for source, revision in map(pinned, config.more_encoders):
        yield "further encoder", f"{_name(source)}, revision {revision or newest}"
    yield "encoder, SHA-256", f"`{fit.encoder_sha256}`"
    yield "projector", f"{config.projector.kind}, {config.projector.tokens} tokens"
    if config.fusion.injection == "residual":
        yield "fusion", config.fusion.kind
        yield "layers", ", ".join(map(str, config.fusion.layers)) or "the merged embeddings"
    yield "scope", config.fusion.scope
    yield "injection", config.fusion.injection
    yield "parameters", f"{parameters:,} in float32"


def _figures(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and value of every number; a mean with its interval is one."""
    for name, value in metrics.items():
        if isinstance(value, Mapping) and value.keys() == {"mean", "low", "high"}:
            yield f"{prefix}{name}", f"{_number(value['mean'])} [{_number(value['low'])}, {_number(value['high'])}]"
        elif isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{name}, ")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield f"{prefix}{name}", _number(value)


def _number(value: float | None) -> str:
    """Return a number in six digits, a whole one in all of its own."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _table(heading: Sequence[str], rows: Sequence[tuple[str, str]] | Iterator[tuple[str, str]]) -> str:
    """Return a Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _name(source: str) -> str:
    """Return how a base or an encoder is called for others, who do not have this machine's folders."""
    if source == "demo":
        return "demo (ships with safe-rl-audio)"
    return source if is_hub_id(source) else f"{Path(source).name} (a local folder or file)"
