"""Building tables with tiny models: what is in them, continuing, refusing, and the live source beside them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_tables import CONFIG, PROFILED

from envs.answering import group_id
from envs.audio_gate import AudioGateEnv
from envs.build import build_table
from envs.cost import PROFILE, LatencyProfile
from envs.flops import FLOPS_SAMPLES
from envs.live import LiveSource
from envs.normaliser import ObservationNormaliser
from envs.outcomes import OutcomeTable
from envs.passes import Passes
from supervised.answers import score
from supervised.data.manifest import read_manifest
from supervised.data.media import read_waveform
from supervised.data.sample import Sample
from supervised.errors import DataError, TableError


def test_every_question_is_a_row_in_order(built: OutcomeTable, splits: dict[str, list[Sample]]) -> None:
    assert built.splits == {"train": 18, "validation": 0, "calibration": 0, "test": 12}
    assert [built.record(row)["id"] for row in range(30)] == [s.id for s in [*splits["train"], *splits["test"]]]
    assert [part.rows for part in built.header.parts] == [7, 7, 7, 7, 2]
    train = built.split("train")
    assert built.retention_sets == ("scenes-vl",)
    assert train.retention_set.tolist() == [-1, -1, -1, -1, 0, 0] * 3
    assert train.group.tolist() == [group_id(sample) for sample in splits["train"]]
    assert built.action_tokens == (0, 8)


def test_scores_are_those_of_the_predictions(built: OutcomeTable, splits: dict[str, list[Sample]]) -> None:
    train = built.split("train")
    for row, sample in enumerate(splits["train"]):
        expected = [score(prediction, sample.answers) for prediction in train.record(row)["predictions"]]
        assert train.score[row].tolist() == expected
    changed = sum(len(set(train.record(row)["predictions"])) for row in range(18)) - 18
    assert changed > 0  # audio changes answers here, so that the two columns are really two


def test_a_question_without_audio_has_the_same_outcome_under_both_actions(built: OutcomeTable) -> None:
    train = built.split("train")
    for row in (4, 10, 16):
        assert len(set(train.record(row)["predictions"])) == 1
        assert train.score[row, 0] == train.score[row, 1]
        assert train.latency_ms[row, 0] == train.latency_ms[row, 1]
    assert np.all(train.latency_ms[[0, 1, 2, 3, 5], 1] > train.latency_ms[[0, 1, 2, 3, 5], 0])


def test_gate_zero_is_found_exact_and_written_down(built: OutcomeTable) -> None:
    assert built.provenance["gate_zero_bit_exact"] is True
    assert built.provenance["gate_zero_samples"] == 6
    assert built.provenance["left_out"] == []
    assert built.provenance["latency_profile"]["base_ms"] == 20.0
    assert 0 < built.provenance["flops"]["skip"] < built.provenance["flops"]["use"]
    assert set(built.provenance["model"]) == {"base", "encoder", "adapter", "config"}


def test_features_have_their_widths_and_vary(built: OutcomeTable) -> None:
    assert built.widths == {"question": 32, "image": 32, "audio_preview": 36, "confidence": 6}
    for values in built.split("train").observation(slice(None)).values():
        assert np.ptp(values, axis=0).max() > 0


def test_question_and_image_features_are_means_of_the_bases_own_states(
    built: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]]
) -> None:
    import torch

    inputs = tiny_model.inputs(splits["train"][:1])
    with torch.no_grad():
        output = tiny_model.base(**inputs, output_hidden_states=True)
        vision = tiny_model.base.base_model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
    words = ~torch.isin(inputs["input_ids"][0], torch.tensor(tiny_model.processor.tokenizer.all_special_ids))
    train = built.split("train")
    expected = output.hidden_states[-1][0][words].mean(dim=0).numpy()
    np.testing.assert_allclose(train.features["question"][0], expected, atol=1e-4)
    np.testing.assert_allclose(train.features["image"][0], vision[0].mean(dim=0).numpy(), atol=1e-4)


def test_confidence_features_are_those_of_the_first_token(
    built: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]]
) -> None:
    import torch

    with torch.no_grad():
        logits = tiny_model.base(**tiny_model.inputs(splits["train"][:1])).logits[0, -1]
    probability = logits.softmax(dim=-1)
    top = probability.sort(descending=True).values
    entropy = -(probability * probability.log()).sum()
    expected = [entropy, top[0], top[0] - top[1]]
    np.testing.assert_allclose(built.split("train").features["confidence"][0][:3], expected, rtol=1e-3)


def test_live_and_table_agree(built: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]]) -> None:
    live = LiveSource.like(built, tiny_model, splits["test"])
    normaliser = ObservationNormaliser.fit(built.split("train"))
    on_table = AudioGateEnv(table=built, split="test", normaliser=normaliser)
    on_model = AudioGateEnv(source=live, normaliser=normaliser)
    assert on_model.observation_space == on_table.observation_space
    for index in range(len(live)):
        for action in (0, 1):
            there, there_info = on_table.reset(options={"index": index})
            here, here_info = on_model.reset(options={"index": index})
            assert here_info == there_info
            raw = built.split("test").observation(index)
            for name, values in live.observation(index).items():
                np.testing.assert_allclose(values, raw[name], rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(here[name], there[name], atol=2e-2)
            _, reward, _, _, info = on_model.step(action)
            _, expected, _, _, expected_info = on_table.step(action)
            assert reward == expected
            np.testing.assert_array_equal(info.pop("cost"), expected_info.pop("cost"))
            assert info == expected_info


def test_a_live_source_refuses_the_table_of_another_adapter(
    built: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = tiny_model.fingerprint() | {"adapter": "another"}
    monkeypatch.setattr(tiny_model, "fingerprint", lambda: fingerprint)
    with pytest.raises(TableError, match=r"another build: model\.adapter is '.*' in the table and 'another'"):
        LiveSource.like(built, tiny_model, splits["test"])


@pytest.mark.parametrize("config", ["by hand", {"written": "elsewhere"}])
def test_a_live_source_refuses_a_table_made_elsewhere(
    synthetic_table: Path, tiny_model: Any, splits: dict[str, list[Sample]], config: object
) -> None:
    header = json.loads((synthetic_table / "table.json").read_text()) | {"provenance": {"config": config}}
    (synthetic_table / "table.json").write_text(json.dumps(header))
    with pytest.raises(TableError, match="was not built by this program; give a LatencyProfile"):
        LiveSource.like(OutcomeTable.open(synthetic_table), tiny_model, splits["test"])


def test_a_build_goes_on_where_it_was_interrupted(
    built: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]], tmp_path: Path
) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        if done > 16:  # within the third part
            raise Interrupted

    with pytest.raises(Interrupted):
        build_table(tiny_model, splits, CONFIG, tmp_path, interrupt, profile=PROFILED)
    assert sum(part["rows"] for part in json.loads((tmp_path / "table.json").read_text())["parts"]) == 14
    starts: list[int] = []
    # A second profile is not taken: one table, one profile.
    table = build_table(
        tiny_model, splits, CONFIG, tmp_path, lambda done, _: starts.append(done), profile=LatencyProfile.free()
    )
    assert starts[0] > 14
    assert [part.sha256 for part in table.header.parts] == [part.sha256 for part in built.header.parts]


def test_an_unfinished_build_never_mixes_two_profiles(
    tiny_model: Any, splits: dict[str, list[Sample]], tmp_path: Path
) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        if done > 9:  # within the second part
            raise Interrupted

    with pytest.raises(Interrupted):
        build_table(tiny_model, splits, CONFIG, tmp_path, interrupt, profile=PROFILED)
    (tmp_path / PROFILE).unlink()
    with pytest.raises(TableError, match=r"latency\.json is missing, but the 7 questions done so far were timed by it"):
        build_table(tiny_model, splits, CONFIG, tmp_path, profile=LatencyProfile.free())


def test_a_finished_table_is_opened_and_not_built_again(
    built: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]]
) -> None:
    steps: list[int] = []
    again = build_table(tiny_model, splits, CONFIG, built.directory, lambda done, _: steps.append(done))
    assert again.fingerprint == built.fingerprint
    assert steps == []


def test_the_table_of_another_configuration_data_or_model_is_refused(
    built: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TableError, match=r"config\.max_new_tokens is 8 in the table and 3 in the present run"):
        build_table(tiny_model, splits, replace(CONFIG, max_new_tokens=3), built.directory)
    with pytest.raises(TableError, match=r"data\.questions\.test is only in the table"):
        build_table(tiny_model, {"train": splits["train"]}, CONFIG, built.directory)
    fingerprint = tiny_model.fingerprint() | {"adapter": "another"}
    monkeypatch.setattr(tiny_model, "fingerprint", lambda: fingerprint)
    with pytest.raises(TableError, match=r"another build: model\.adapter is"):
        build_table(tiny_model, splits, CONFIG, built.directory)


def test_speed_and_care_do_not_make_another_table(
    built: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]]
) -> None:
    config = replace(CONFIG, batch_size=2, rows_per_part=100, on_error="skip", exact_samples=1)
    assert build_table(tiny_model, splits, config, built.directory).fingerprint == built.fingerprint


def test_damaged_media_stop_the_build_or_are_left_out_and_counted(
    tiny_model: Any, many_samples: list[Sample], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.flac"
    broken.write_bytes(b"fLaC")
    samples = [replace(many_samples[0], id="bad", audio=broken), *many_samples[:8]]
    with pytest.raises(DataError, match=r"sample 'bad': clip .*broken\.flac"):
        build_table(tiny_model, {"train": samples}, CONFIG, tmp_path / "stop", profile=PROFILED)
    table = build_table(
        tiny_model, {"train": samples}, replace(CONFIG, on_error="skip"), tmp_path / "skip", profile=PROFILED
    )
    assert len(table) == 8
    assert [entry["id"] for entry in table.provenance["left_out"]] == ["bad"]
    assert "broken.flac" in table.provenance["left_out"][0]["reason"]


def test_questions_of_a_manifest_that_cannot_be_used_are_told_by_file_and_line(
    tiny_model: Any, many_samples: list[Sample], tmp_path: Path
) -> None:
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    rows = [{"id": f"q{i}", "question": "what can you hear ?", "answers": ["dog"]} for i in range(6)]
    rows[1] |= {"audio": "torn.wav"}
    rows[4] |= {"question": "what is <image> ?"}
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    splits = {"test": many_samples[:3], "train": read_manifest(path)}
    with pytest.raises(DataError, match=r"^[^ ]*m\.jsonl, line 2: sample 'q1': clip .*torn\.wav cannot be decoded"):
        build_table(tiny_model, splits, CONFIG, tmp_path / "stop", profile=PROFILED)
    table = build_table(tiny_model, splits, replace(CONFIG, on_error="skip"), tmp_path / "skip", profile=PROFILED)
    assert len(table) == 7
    left_out = table.provenance["left_out"]
    assert [entry["id"] for entry in left_out] == ["q1", "q4"]
    assert re.search(
        r"m\.jsonl, line 5: sample 'q4': the question contains '<image>', a special", left_out[1]["reason"]
    )


def test_no_question_at_all_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="needs at least one question, got none"):
        build_table(tiny_model, {"train": []}, CONFIG, tmp_path)
    with pytest.raises(TableError, match=r"splits \['dev'\] are unknown"):
        build_table(tiny_model, {"dev": []}, CONFIG, tmp_path)


def test_a_router_table_has_no_confidence_and_another_latency(
    built: OutcomeTable, tiny_model: Any, splits: dict[str, list[Sample]], tmp_path: Path
) -> None:
    config = replace(CONFIG, cost_mode="router", feature_dtype="float16", preview="clap")
    table = build_table(tiny_model, splits, config, tmp_path, profile=PROFILED)
    assert table.widths == {"question": 32, "image": 32, "audio_preview": 8, "confidence": 0}
    assert table.parts[0]["question"].dtype == np.float16
    np.testing.assert_array_equal(table.split("test").score, built.split("test").score)
    assert "confidence" not in AudioGateEnv(table=table).observation_space.spaces  # type: ignore[attr-defined]
    LiveSource.like(table, tiny_model, splits["test"])


def test_a_clip_that_several_questions_share_is_encoded_once(
    tiny_model: Any, many_samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    original = tiny_model.encode_audio

    def count(clips: Any) -> Any:
        encoded.append(len(clips))
        return original(clips)

    monkeypatch.setattr(tiny_model, "encode_audio", count)
    build_table(tiny_model, {"train": many_samples}, CONFIG, tmp_path, profile=PROFILED)
    # Five parts of seven questions; within a part each of the six media (one is "no clip") once, six questions once
    # more where gate 0 is compared, in two batches, and those on which operations are counted.
    assert sum(encoded) <= 5 * 6 + 6 + FLOPS_SAMPLES


def test_the_profile_is_measured_once_and_stored(tiny_model: Any, many_samples: list[Sample], tmp_path: Path) -> None:
    build_table(tiny_model, {"train": many_samples[:6]}, CONFIG, tmp_path)
    profile = LatencyProfile.load(tmp_path / PROFILE)
    assert profile.base_ms > 0
    assert profile.second_ms <= profile.base_ms
    assert profile.encoder_ms + profile.encoder_ms_per_s > 0
    assert 0 < profile.preview_ms < profile.base_ms
    assert profile.machine


@pytest.mark.parametrize("shared", [True, False])
def test_a_router_sees_nothing_of_the_base_pass(
    tiny_model: Any, many_samples: list[Sample], monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Layers of the language model are disturbed: what a router reads must stay, what a cascade reads must not."""
    import torch

    if not shared:  # a base of an older transformers, whose pictures come out of the pass itself
        monkeypatch.setattr(tiny_model, "encode_images", lambda inputs: None)
    layer = tiny_model.base.base_model.language_model.layers[0].mlp.down_proj.weight
    seen: dict[str, list[dict[str, np.ndarray]]] = {}
    kept = layer.detach().clone()
    for _ in range(2):
        for mode in ("router", "cascade"):
            passes = Passes(tiny_model, replace(CONFIG, cost_mode=mode), PROFILED)
            seen.setdefault(mode, []).append(passes.base([passes.load(many_samples[0])]).features)
        with torch.no_grad():
            layer.mul_(-2.0)
    with torch.no_grad():
        layer.copy_(kept)
    before, after = seen["router"]
    assert list(before) == ["question", "image", "audio_preview"]
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])
    assert np.abs(seen["cascade"][0]["question"] - seen["cascade"][1]["question"]).max() > 0.01
    if not shared:
        vision = tiny_model.base.base_model.get_image_features(
            pixel_values=tiny_model.inputs(many_samples[:1])["pixel_values"]
        ).pooler_output
        np.testing.assert_allclose(before["image"][0], vision[0].mean(dim=0).detach().numpy(), atol=1e-4)


def test_latencies_of_a_router_table_are_the_formula_by_hand(
    tiny_model: Any, splits: dict[str, list[Sample]], tmp_path: Path
) -> None:
    table = build_table(tiny_model, splits, replace(CONFIG, cost_mode="router"), tmp_path, profile=PROFILED)
    cascade = build_table(tiny_model, splits, CONFIG, tmp_path / "cascade", profile=PROFILED)
    tokenizer, train = tiny_model.processor.tokenizer, table.split("train")
    for row, sample in enumerate(splits["train"]):
        inputs = tiny_model.inputs([sample])
        length = int(inputs["attention_mask"].sum())
        audio = tiny_model.encode_audio([sample.audio])
        outputs = [tiny_model.generate(inputs, features) for features in (None, audio)]
        ids = [output.sequences[0, inputs["input_ids"].shape[1] :].tolist() for output in outputs]
        tokens = [(found.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in found else 8) for found in ids]
        plain = 20 + 0.125 * (length - 20) + 4 * (tokens[0] - 1)
        if sample.audio is None:
            assert train.latency_ms[row].tolist() == [np.float32(0.25 + plain)] * 2
            continue
        seconds = _seconds(sample, tiny_model)
        glance = 1 + 2 * min(seconds, 1.0) + 0.5
        listening = 2 * (seconds - min(seconds, 1.0)) + 3 + 0.25 * seconds
        heard = 20 + 0.125 * (length - 20) + 4 * (tokens[1] - 1)
        by_hand = [glance + 0.25 + plain, glance + 0.25 + listening + 1.5 + heard]
        np.testing.assert_allclose(train.latency_ms[row], by_hand, rtol=1e-6)
        second = by_hand[1] - (20 - 12) + plain  # a cascade has the picture encoded, and has waited for the base
        np.testing.assert_allclose(cascade.split("train").latency_ms[row, 1], second, rtol=1e-6)


def _seconds(sample: Sample, model: Any) -> float:
    assert sample.audio is not None
    clip = read_waveform(sample.audio, model.encoder.rate)
    return clip.seconds
