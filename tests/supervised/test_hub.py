"""Adapters that go to the hub and come back; a folder stands in for the hub, because tests have no network."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from supervised.adapter_files import INDEX
from supervised.errors import CheckpointError, ConfigError, ModelError
from supervised.hub import is_hub_id, local_adapter, push_adapter
from supervised.safe_model import SafeModel

Asked = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The hub's client, at work on a folder: `place` holds the repository, `asked` what was asked of it."""
    place, asked = tmp_path / "hub", Asked()

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            asked.append(("create_repo", {"repo_id": repo_id} | options))
            (place / repo_id).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, repo_id: str, folder_path: Path, **options: Any) -> SimpleNamespace:
            asked.append(("upload_folder", {"repo_id": repo_id} | options))
            for path in (place / repo_id).iterdir():
                if any(fnmatch.fnmatch(path.name, pattern) for pattern in options["delete_patterns"]):
                    path.unlink()
            for path in Path(folder_path).iterdir():
                if any(fnmatch.fnmatch(path.name, pattern) for pattern in options["allow_patterns"]):
                    shutil.copy(path, place / repo_id)
            return SimpleNamespace(oid="c0ffee")

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.append(("snapshot_download", {"repo_id": repo_id} | options))
        if not (place / repo_id).is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError("Repository Not Found for url: ...\nmore")
        return str(place / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return SimpleNamespace(place=place, asked=asked)


def test_what_is_pushed_is_the_adapter_and_its_card_and_comes_back_the_same(
    hub: SimpleNamespace, tiny_model: SafeModel
) -> None:
    commit = tiny_model.push_to_hub("me/ears", {"audio_accuracy": 0.75}, licence="mit")
    assert commit == "c0ffee"
    names = {path.name for path in (hub.place / "me" / "ears").iterdir()}
    assert {INDEX, "README.md"} < names
    assert len(names) == 3
    assert "| audio_accuracy | 0.75 |" in (hub.place / "me" / "ears" / "README.md").read_text()
    assert hub.asked[0] == ("create_repo", {"repo_id": "me/ears", "private": True, "exist_ok": True})
    loaded = SafeModel.from_pretrained("me/ears", revision=commit)
    assert loaded.fingerprint() == tiny_model.fingerprint()
    name, options = hub.asked[-1]
    assert (name, options["revision"]) == ("snapshot_download", "c0ffee")
    assert options["allow_patterns"] == ["adapter.json", "adapter-*.safetensors", "README.md"]


def test_weights_of_the_adapter_before_are_deleted(hub: SimpleNamespace, tiny_model: SafeModel) -> None:
    repository = hub.place / "me" / "ears"
    repository.mkdir(parents=True)
    (repository / "adapter-000000000000.safetensors").touch()
    (repository / "notes.txt").touch()
    tiny_model.push_to_hub("me/ears")
    assert len(list(repository.glob("*.safetensors"))) == 1
    assert (repository / "notes.txt").exists()


def test_a_card_that_was_edited_goes_up_as_it_is_and_nothing_else_does(
    hub: SimpleNamespace, tiny_model: SafeModel, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    tiny_model.save_pretrained(folder)
    (folder / "README.md").write_text("mine")
    (folder / "secret.txt").touch()
    push_adapter(folder, "me/ears", private=False, message="First")
    assert (hub.place / "me" / "ears" / "README.md").read_text() == "mine"
    assert not (hub.place / "me" / "ears" / "secret.txt").exists()
    assert hub.asked[0][1]["private"] is False
    assert hub.asked[1][1]["commit_message"] == "First"


def test_a_folder_that_is_no_whole_adapter_is_not_pushed(
    hub: SimpleNamespace, tiny_model: SafeModel, tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path / "mine")
    (weights,) = (tmp_path / "mine").glob("*.safetensors")
    weights.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is damaged \(its SHA-256 differs\)"):
        push_adapter(tmp_path / "mine", "me/ears")
    assert hub.asked == []


def test_a_damaged_or_foreign_adapter_of_the_hub_is_refused_like_a_folder(
    hub: SimpleNamespace, tiny_model: SafeModel
) -> None:
    tiny_model.push_to_hub("me/ears")
    repository = hub.place / "me" / "ears"
    index = json.loads((repository / INDEX).read_text())
    index["fit"]["base_sha256"] = "0" * 64
    (repository / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match="is for a base with weights 000000000000, this one has"):
        SafeModel.from_pretrained("me/ears")
    (weights,) = repository.glob("*.safetensors")
    weights.write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=r"is damaged \(its SHA-256 differs\)"):
        SafeModel.from_pretrained("me/ears")


def test_what_is_not_on_the_hub_is_one_line(hub: SimpleNamespace) -> None:
    message = r"^'me/nothing' is not a folder, and cannot be had from the hub \(Repository Not Found [^\n]*\); give the"
    with pytest.raises(CheckpointError, match=message):
        SafeModel.from_pretrained("me/nothing")


def test_a_hub_that_refuses_is_one_line(
    hub: SimpleNamespace, tiny_model: SafeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise huggingface_hub.errors.LocalTokenNotFoundError("Token is required,\nbut no token found.")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(CheckpointError, match=r"^the adapter cannot be uploaded to me/ears \(Token is required,\); c"):
        tiny_model.push_to_hub("me/ears")


def test_without_a_network_a_push_is_one_line(tiny_model: SafeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    client = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client(endpoint="http://127.0.0.1:9", token="hf_none"))
    with pytest.raises(CheckpointError, match=r"^the adapter cannot be uploaded to me/ears \([^\n]*refused\); check"):
        tiny_model.push_to_hub("me/ears")


@pytest.mark.parametrize("name", ["ears", "me/ears/more", "/me/ears", "me/ ears", "../ears"])
def test_a_repository_is_owner_and_name(hub: SimpleNamespace, tiny_model: SafeModel, name: str) -> None:
    with pytest.raises(ConfigError, match="a repository on the hub is owner/name, got "):
        tiny_model.push_to_hub(name)
    assert hub.asked == []


def test_a_folder_is_never_looked_for_on_the_hub(
    hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    for source in ("runs/mine", Path("me/ears"), "./me/ears", "/me/ears", "a/b/c"):
        assert not is_hub_id(source)
        assert local_adapter(source) == Path(source)
    assert hub.asked == []
    with pytest.raises(ConfigError, match="revision is c0ffee, but runs/mine is a folder; leave the revision out"):
        local_adapter("runs/mine", "c0ffee")


def test_an_adapter_that_diverged_is_not_pushed(hub: SimpleNamespace, tiny_config: Any) -> None:
    model = SafeModel.attach(tiny_config)
    model.adapter.markers.data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="markers is NaN or infinite"):
        model.push_to_hub("me/ears")
    assert hub.asked == []
