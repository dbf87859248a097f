"""The files in configs/accelerate are read by accelerate's own loader, and say what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "configs" / "accelerate"
FILES = {"cpu.yaml": "MULTI_GPU", "ddp.yaml": "MULTI_GPU", "deepspeed.yaml": "DEEPSPEED", "fsdp.yaml": "FSDP"}


def read(name: str) -> Any:
    from accelerate.commands.config.config_args import load_config_from_file

    return load_config_from_file(str(FOLDER / name))


def test_every_file_is_known() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)
    assert len(FILES) == 4


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_it(name: str) -> None:
    config = read(name)
    assert str(config.distributed_type.value) == FILES[name]
    assert config.num_processes >= 2
    assert config.mixed_precision == ("no" if name == "cpu.yaml" else "bf16")


def test_the_cpu_stays_on_the_cpu() -> None:
    assert read("cpu.yaml").use_cpu is True


def test_fsdp_wraps_the_layers_by_the_second_version() -> None:
    settings = read("fsdp.yaml").fsdp_config
    assert settings["fsdp_version"] == 2
    assert settings["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"


def test_deepspeed_spreads_by_stage_3_and_nothing_else() -> None:
    settings = read("deepspeed.yaml").deepspeed_config
    assert settings["zero_stage"] == 3
    assert settings["offload_param_device"] == settings["offload_optimizer_device"] == "none"
