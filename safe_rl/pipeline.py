"""From a configuration to an adapter and an outcome table: what is missing is built, what is unfinished goes on.

What is there is reused only if it comes from the same configuration, data and adapter, told by hashes, not by paths.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rl.artefact import REMEDY, Artefact, claim, folder_sha256, listing_sha256, refuse_stranger
from safe_rl.config import RunConfig
from safe_rl.determinism import prepare
from safe_rl.options import existing_folder, to_dict
from safe_rl.run_folder import RunFolder
from supervised.demo import BASE, ENCODER
from supervised.errors import CheckpointError, ConfigError, SafeError, TableError
from supervised.files import sha256_file
from supervised.processes import Processes
from supervised.stage_a.config import StageAConfig
from supervised.trackers import require_tracker

if TYPE_CHECKING:
    from envs.outcomes import OutcomeTable
    from supervised.safe_model import SafeModel

TABLE_SPLITS = ("train", "validation", "calibration", "test")
SPEED_ONLY = ("batch_size", "rows_per_part", "exact_samples", "latency_repeats", "on_error")
"""Keys of `outcomes` that may change while a table is built."""


def check_inputs(config: RunConfig) -> None:
    """Refuse, before anything long begins, inputs that are not there and a run folder of another configuration.

    Raises:
        ConfigError: a file or folder of the configuration does not exist, or a token budget is above the tokens.
        CheckpointError: the run folder holds the adapter of another configuration.
        TableError: the run folder holds the table of another configuration.
        ProcessError: the main process found one of these, and this is another one.
    """
    Processes.current().by_main(lambda: _check_inputs(config))


def _check_inputs(config: RunConfig) -> None:
    require_tracker(config.tracker)
    if config.table is not None:
        existing_folder(
            config.table, "table", "give the folder of an outcome table, or leave --table out to build one."
        )
        return
    config.model.projector.require("outcomes.budgets", config.outcomes.budgets)
    config.stage_a.require(config.model)
    if config.data.recordings is not None:
        remedy = "give the folder of ESC-10 or ESC-50 with --data.recordings DIR, or null for synthesised sounds."
        existing_folder(config.data.recordings, "data.recordings", remedy)
    if config.data.manifest is not None and not Path(config.data.manifest).is_file():
        raise ConfigError(f"data.manifest: {config.data.manifest} is not a file; give the path of a JSONL manifest.")
    own = Path(config.run_dir) / "config.yaml"
    remedy = f"give another --run_dir, or this one's configuration with --config {own}" if own.is_file() else REMEDY
    refuse_stranger(Path(config.run_dir) / "stage_a", _adapter_origin(config), CheckpointError, remedy=remedy)
    refuse_stranger(Path(config.run_dir) / "table", _table_origin(config), TableError, remedy=remedy)


def open_table(config: RunConfig, folder: RunFolder) -> OutcomeTable:
    """Open the table that the configuration names, or that of the run, and note its hash.

    Raises:
        TableError: it is missing, damaged, or of another adapter or configuration.
    """
    from envs.outcomes import OutcomeTable

    table = OutcomeTable.open(config.table if config.table is not None else ensure_table(config, folder))
    folder.note(table=table.fingerprint)
    return table


def ensure_adapter(config: RunConfig, folder: RunFolder) -> Path:
    """Return the folder of the run's adapter; train it if it is missing, go on if it is unfinished.

    Raises:
        CheckpointError: the run folder holds the adapter of another configuration, or a changed one.
    """
    stage_a = folder.path / "stage_a"
    adapter = stage_a / "adapter"
    artefact = _claimed(stage_a, _adapter_origin(config), CheckpointError)

    def check(facts: dict[str, Any]) -> None:
        if not adapter.is_dir() or folder_sha256(adapter) != facts["adapter_sha256"]:
            raise CheckpointError(f"{adapter} was changed after Stage A finished; restore it, or delete {stage_a}.")

    if artefact.finished is None:
        facts = _train_adapter(config, artefact)
    else:
        facts = artefact.finished
        Processes.current().by_main(lambda: check(facts))
    folder.note(adapter=facts["adapter_sha256"])
    return adapter


def ensure_table(config: RunConfig, folder: RunFolder) -> Path:
    """Return the folder of the run's outcome table; build it if it is missing, go on if it is unfinished.

    Raises:
        TableError: the run folder holds the table of another adapter or configuration, or a changed one.
        ConfigError: the base was trained too.
    """
    if config.stage_a.train_base:
        raise ConfigError(
            "stage_a.train_base is a baseline of train_stage_a alone: its gate 0 is not the base, so a table of "
            "skipped audio would not be the base's; leave it out, or run python -m safe_rl.train_stage_a."
        )
    adapter = ensure_adapter(config, folder)
    place = folder.path / "table"
    header = place / "table.json"
    artefact = _claimed(place, _table_origin(config) | {"adapter_sha256": folder_sha256(adapter)}, TableError)

    def check(facts: dict[str, Any]) -> None:
        if not header.is_file() or sha256_file(header) != facts["table_sha256"]:
            raise TableError(f"{place} was changed after it was built; restore it, or delete it to build it again.")

    if artefact.finished is None:
        _build_table(config, adapter, artefact)
    else:
        facts = artefact.finished
        Processes.current().by_main(lambda: check(facts))
    return place


def trained_model(config: RunConfig, adapter: Path) -> SafeModel:
    """Return the model with a trained adapter, its base and encoders from where the configuration says they lie."""
    from supervised.safe_model import SafeModel

    return SafeModel.from_pretrained(
        adapter,
        base=config.model.base,
        encoder=config.model.encoder,
        device=config.model.device,
        more_encoders=config.model.more_encoders,
        feature_cache=config.model.feature_cache,
        trust_remote_code=config.model.trust_remote_code,
        base_revision=config.model.base_revision,
    )


def _claimed(folder: Path, made_from: dict[str, Any], error: type[SafeError]) -> Artefact:
    """Let the main process claim a folder; the others only know what it found."""
    claimed: list[Artefact] = []

    def claim_it() -> dict[str, Any] | None:
        claimed.append(claim(folder, made_from, error))
        return claimed[0].finished

    finished = Processes.current().by_main(claim_it)
    return claimed[0] if claimed else Artefact(folder, made_from, finished)


def _train_adapter(config: RunConfig, artefact: Artefact) -> dict[str, Any]:
    """Train the adapter on all processes; return what is noted about it."""
    from supervised.data.source import open_split
    from supervised.safe_model import SafeModel
    from supervised.sharding import attach_sharded, left_whole, sharding_is_wanted
    from supervised.stage_a.training import train_stage_a

    processes = Processes.current()
    print(f"Stage A: training the adapter in {artefact.folder}")
    prepare(config.stage_a.seed, config.threads)
    train, validation = (open_split(config.data, split) for split in ("adapter", "validation"))
    if sharded := processes.by_main(sharding_is_wanted):
        processes.by_main(lambda: _check_sharding(_stage_a(config)))
    elif told := left_whole():
        print(told)
    model = attach_sharded(config.model) if sharded else SafeModel.attach(config.model)
    show = processes.main and sys.stderr.isatty()  # bars in a log file are noise
    settings = _stage_a(config)
    on_error = config.data.on_error
    result = train_stage_a(
        model, train, validation, settings, artefact.folder, True, show, on_error=on_error, tracker=config.tracker
    )

    def finish() -> dict[str, Any]:
        figures = {name: value for name, value in to_dict(result).items() if name != "adapter"}
        facts = {"adapter_sha256": folder_sha256(result.adapter), "result": figures}
        artefact.finish(facts)
        return facts

    facts = processes.by_main(finish)
    print(
        f"Stage A: audio accuracy {100 * result.audio_accuracy:.1f} % (base {100 * result.base_audio_accuracy:.1f} %), "
        f"retention {100 * result.retention_score:.1f} % (base {100 * result.base_retention_score:.1f} %)"
    )
    return facts


def _check_sharding(config: StageAConfig) -> None:
    """Refuse what a base that is spread over the processes cannot do.

    Trained itself, its layers would need gradients that nobody collects; and a process without a question in one part
    of a step would not ask the base when the others do.
    """
    from supervised.stage_a.rows import step_size

    if config.train_base:
        raise ConfigError(
            "stage_a.train_base trains the base, which is spread here; launch it with configs/accelerate/ddp.yaml."
        )
    parts = Processes.current().count * config.accumulate
    if (size := step_size(config)) < parts:
        raise ConfigError(
            f"a step is taken on {size} questions, and with the base spread each of its {parts} parts (processes times "
            f"stage_a.accumulate) needs one; raise stage_a.batch_size, or lower stage_a.accumulate."
        )


def _build_table(config: RunConfig, adapter: Path, artefact: Artefact) -> None:
    """Build the table on all processes."""
    from tqdm import tqdm

    from envs.build import build_table
    from supervised.data.source import open_split

    processes = Processes.current()
    print(f"Outcome table: asking every question with and without audio into {artefact.folder}")
    prepare(config.data.seed, config.threads)
    model = trained_model(config, adapter)
    splits = {split: open_split(config.data, split) for split in TABLE_SPLITS}
    with tqdm(desc="table", unit="question", disable=None if processes.main else True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        table = build_table(model, splits, config.outcomes, artefact.folder, progress, data=_data_origin(config))
    if left_out := table.provenance.get("left_out"):
        print(f"Questions left out: {len(left_out)}; table.json says which and why (provenance.left_out).")
    processes.by_main(lambda: artefact.finish({"table_sha256": table.fingerprint}))


def _data_origin(config: RunConfig) -> dict[str, Any]:
    """Return what the questions come from, paths replaced by hashes of what they lead to."""
    from supervised.demo.scenes import VERSION

    origin: dict[str, Any] = to_dict(config.data)
    del origin["on_error"]  # a run that stopped at a damaged file may go on without it
    if config.data.hold_out == 0:  # then the questions are those of a time before any were held out
        del origin["hold_out"]
    if config.data.manifest is not None:
        origin["manifest"] = sha256_file(config.data.manifest)
    else:
        origin["scenes_version"] = VERSION
    if config.data.recordings is not None:
        origin["recordings"] = listing_sha256(Path(config.data.recordings))
    return origin


def _model_origin(config: RunConfig) -> dict[str, Any]:
    """Return what the model is made of; where it runs does not matter."""
    origin: dict[str, Any] = to_dict(config.model)
    del origin["device"], origin["feature_cache"]
    if not config.model.trust_remote_code:  # then the model is that of a time before it could be asked for
        del origin["trust_remote_code"]
    for name, shipped in (("base", BASE), ("encoder", ENCODER)):
        if origin[name] == "demo":
            origin[name] = f"demo {folder_sha256(shipped)}"
        elif Path(origin[name]).is_dir():
            origin[name] = listing_sha256(Path(origin[name]))
    origin["more_encoders"] = [
        listing_sha256(path) if (path := Path(name)).is_dir() else name for name in origin["more_encoders"]
    ]
    return origin


def _adapter_origin(config: RunConfig) -> dict[str, Any]:
    data = {key: value for key, value in _data_origin(config).items() if key not in ("train", "calibration", "test")}
    stage_a = {key: value for key, value in to_dict(_stage_a(config)).items() if key != "checkpoint_every"}
    return {"data": data, "model": _model_origin(config), "stage_a": _without_empty_budgets(stage_a)}


def _table_origin(config: RunConfig) -> dict[str, Any]:
    outcomes = {key: value for key, value in to_dict(config.outcomes).items() if key not in SPEED_ONLY}
    return {
        "data": _data_origin(config),
        "model": _model_origin(config),
        "outcomes": _without_empty_budgets(outcomes),
    }


def _stage_a(config: RunConfig) -> StageAConfig:
    """Return the settings of Stage A; unless it names token budgets of its own, it trains for those of the table."""
    return replace(config.stage_a, budgets=config.stage_a.budgets or config.outcomes.budgets)


def _without_empty_budgets(origin: dict[str, Any]) -> dict[str, Any]:
    """Return the origin as it was before there were budgets, where there are none."""
    return {key: value for key, value in origin.items() if key != "budgets" or value}
