"""A folder knows what it was made from, and refuses to be mixed with anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from safe_rl.artefact import FILE, claim, folder_sha256
from supervised.errors import ConfigError, TableError

ORIGIN = {"reward": {"alpha": 0.6, "sizes": (64, 64)}, "seeds": 2}


def test_a_new_folder_is_claimed_and_finished(tmp_path: Path) -> None:
    artefact = claim(tmp_path / "policy", ORIGIN, ConfigError)
    assert artefact.finished is None
    artefact.finish({"sha256": "abc"})
    assert claim(tmp_path / "policy", ORIGIN, ConfigError).finished == {"sha256": "abc"}


def test_another_origin_is_refused_by_the_key_that_differs(tmp_path: Path) -> None:
    claim(tmp_path, ORIGIN, TableError)
    (tmp_path / "part").touch()
    other = {"reward": {"alpha": 0.4, "sizes": [64, 64]}, "seeds": 2}
    with pytest.raises(TableError, match=r"\(reward\.alpha 0\.6 there, 0\.4 here\); give another --run_dir\."):
        claim(tmp_path, other, TableError)


def test_what_may_grow_grows_only_when_resumed(tmp_path: Path) -> None:
    claim(tmp_path, ORIGIN, ConfigError).finish({})
    (tmp_path / "seed-0").mkdir()
    more = ORIGIN | {"seeds": 5}
    with pytest.raises(ConfigError, match=r"--resume continues it, another --run_dir starts afresh"):
        claim(tmp_path, more, ConfigError, may_grow=("seeds",))
    assert claim(tmp_path, more, ConfigError, may_grow=("seeds",), resume=True).finished is None
    with pytest.raises(ConfigError, match=r"seeds 5 there, 2 here\); give another --run_dir"):
        claim(tmp_path, ORIGIN, ConfigError, may_grow=("seeds",), resume=True)


def test_a_folder_in_which_nothing_was_made_may_be_claimed_anew(tmp_path: Path) -> None:
    claim(tmp_path, {"limit": -1}, TableError)
    claim(tmp_path, {"limit": 1}, TableError)
    (tmp_path / "part").touch()
    assert claim(tmp_path, {"limit": 1}, TableError).finished is None
    with pytest.raises(TableError, match=r"limit 1 there, 2 here"):
        claim(tmp_path, {"limit": 2}, TableError)


def test_files_of_unknown_origin_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(TableError, match="holds files of unknown origin; move them away"):
        claim(tmp_path, ORIGIN, TableError)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_a_damaged_origin_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match="cannot be read as an origin"):
        claim(tmp_path, ORIGIN, ConfigError)


def test_the_hash_of_a_folder_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    first = folder_sha256(tmp_path)
    (tmp_path / "one").rename(tmp_path / "two")
    second = folder_sha256(tmp_path)
    (tmp_path / "two").write_text("2")
    assert len({first, second, folder_sha256(tmp_path)}) == 3


def test_a_text_for_people_may_be_edited(tmp_path: Path) -> None:
    (tmp_path / "adapter.json").write_text("1")
    first = folder_sha256(tmp_path)
    (tmp_path / "README.md").write_text("licence: mine")
    assert folder_sha256(tmp_path) == first
