"""Command lines and YAML files become a dataclass, or one line that says what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from safe_rl.options import existing_folder, options, parse, to_dict, to_yaml
from supervised.errors import ConfigError


@dataclass(frozen=True)
class Prices:
    """What things cost."""

    alpha: float = 0.6
    """Price of a unit of latency."""
    mode: Literal["cascade", "router"] = "cascade"
    """When to decide."""
    limits: tuple[float, ...] = (0.003,)
    """Limits."""
    limit: float | tuple[float, ...] = 0.003
    """One limit, or several."""

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ConfigError(f"prices.alpha must be at least 0, got {self.alpha}; use e.g. 0.6.")


@dataclass(frozen=True)
class Run:
    """A run."""

    prices: Prices = field(default_factory=Prices)
    seeds: int = 5
    """Number of policies."""
    table: str | None = None
    """Where the table lies."""
    resume: bool = False
    """Go on."""


def read(*argv: str) -> Run:
    return parse(Run, list(argv), "python -m safe_rl.verb", "A verb.")


def yaml(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_no_argument_gives_the_defaults() -> None:
    assert read() == Run()


def test_an_override_after_the_file_wins(tmp_path: Path) -> None:
    path = yaml(tmp_path, "prices:\n  alpha: 0.1\n  mode: router\nseeds: 2\n")
    assert read("--config", path, "--prices.alpha", "1e-3") == Run(Prices(1e-3, "router"), seeds=2)


@pytest.mark.parametrize("given", [("--prices.alpha", "1e-3"), ("--prices.alpha=1e-3",)])
def test_an_option_before_a_file_that_sets_it_is_refused(tmp_path: Path, given: tuple[str, ...]) -> None:
    path = yaml(tmp_path, "prices:\n  alpha: 0.2\n")
    told = r"^--prices\.alpha stands before --config .*, which sets prices\.alpha again; give --config first\.$"
    for files in (("--config", path), (f"--config={path}",)):
        with pytest.raises(ConfigError, match=told):
            read(*given, *files)
    assert read("--prices.mode", "router", "--config", yaml(tmp_path, "seeds: 2\n")) == Run(Prices(mode="router"), 2)
    with pytest.raises(ConfigError, match=r"^seeds must be a whole number, got [^\n]*$"):
        read("--seeds.x.y", "1", "--config", yaml(tmp_path, "seeds: 2\n"))
    path = yaml(tmp_path, "prices:\n  alpha: 0.2\n")
    assert read("--seeds", "2", "--config", path) == Run(Prices(0.2), seeds=2)  # the file does not speak of it


def test_a_resolved_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    run = Run(Prices(1e-5, "router", (0.0, 0.25), (1e-3, 1.0)), table="x", resume=True)
    assert read("--config", yaml(tmp_path, to_yaml(run))) == run


@pytest.mark.parametrize(
    ("given", "limit"), [("1e-3", 1e-3), ("1", 1.0), ("[1e-3, 2]", (1e-3, 2.0)), ("[0.5]", (0.5,))]
)
def test_one_number_or_a_list_are_read_alike_from_file_and_command_line(
    tmp_path: Path, given: str, limit: float | tuple[float, ...]
) -> None:
    from_file = read("--config", yaml(tmp_path, f"prices:\n  limit: {given}\n"))
    assert from_file == read("--prices.limit", given) == Run(Prices(limit=limit))
    hash(from_file)


def test_a_dataclass_becomes_plain_values() -> None:
    assert to_dict(Run())["prices"] == {"alpha": 0.6, "mode": "cascade", "limits": [0.003], "limit": 0.003}


def test_a_switch_stands_alone_or_takes_a_value() -> None:
    assert read("--resume").resume
    assert read("--resume", "--seeds", "3") == Run(seeds=3, resume=True)
    assert not read("--resume", "false").resume


def test_every_option_is_listed_with_its_dotted_name() -> None:
    assert [name for name, _ in options(Run)] == [
        "prices.alpha",
        "prices.mode",
        "prices.limits",
        "prices.limit",
        "seeds",
        "table",
        "resume",
    ]


def test_help_holds_the_docstrings_of_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "Price of a unit of latency." in shown
    assert "default: 0.6" in shown


def test_print_config_prints_yaml_that_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        read("--prices.alpha", "0.4", "--print_config")
    shown = capsys.readouterr().out
    assert read("--config", yaml(tmp_path, shown)) == Run(Prices(0.4))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--prises.alpha", "1"), r"unknown option --prises\.alpha, did you mean --prices\.alpha;"),
        (("--alpha=1",), r"unknown option --alpha, did you mean --prices\.alpha;"),
        (("--seed", "1"), r"unknown option --seed, did you mean --seeds;"),
        (("seeds",), r"unexpected argument 'seeds'; options look like --"),
        (("--seeds", "many"), r"seeds must be a whole number, got many;"),
        (("--seeds",), r"seeds must be a whole number, got nothing;"),
        (("--prices.alpha", "-1"), r"prices\.alpha must be at least 0, got -1\.0; use e\.g\. 0\.6\."),
        (("--prices.alpha", "nan"), r"prices\.alpha must be a number, got nan"),
        (("--prices.mode", "fast"), r"prices\.mode must be one of cascade, router, got fast;"),
        (("--prices.limit", "[a]"), r"limit must be a number or a list such as \[x, y\], each a number, got \['a'\];"),
        (("--prices", "3"), r"prices is a section; give its keys, such as --prices\.alpha VALUE"),
        (("--config", "absent.yaml"), r"absent\.yaml cannot be read as YAML \(No such file or directory\)"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "prices:\n  alfa: 1\n",
            r"unknown key 'prices\.alfa', did you mean alpha\? allowed there: alpha, mode, limits, limit",
        ),
        ("sedes: 1\n", r"unknown key 'sedes', did you mean seeds\? allowed there: prices, seeds, table, resume"),
        ("frobnicate: 1\n", r"unknown key 'frobnicate'; allowed there: prices, seeds"),
        ("prices: 3\n", r"prices is a section, got 3; give keys below it: alpha, mode, limits, limit"),
        ("seeds: 1\nseeds: 2\n", r"key 'seeds' stands twice in one section; keep one of them"),
        ("- 1\n- 2\n", r"holds no keys"),
        ("", r"holds no keys"),
        ("{[", r"cannot be read as YAML"),
        ("seeds: many\n", r"seeds must be a whole number, got many"),
        ("table: !!python/object/apply:os.system [id]\n", r"cannot be read as YAML"),
        ("prices:\n  limits: [.nan]\n", r"prices\.limits must be a number, got nan"),
    ],
)
def test_a_wrong_yaml_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read("--config", yaml(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_yaml_file_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"run\.yaml cannot be read as YAML"):
        read("--config", str(path))


def test_a_missing_folder_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.recordings: .*absent does not exist; give"):
        existing_folder(str(tmp_path / "absent"), "data.recordings", "give another.")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"is not a folder"):
        existing_folder(str(tmp_path / "file"), "data.recordings", "give another.")
