"""Training of the projector between the eyes and the words of an assembled base; everything else stays frozen.

In: a folder written by `assemble_llava`, and samples with pictures and answers (captions are answers to a question).
Out: `base/` in the run's folder, a checkpoint that `load_base` takes, with the same weights but for the projector. The
loss is the cross-entropy of the answers' tokens, as in LLaVA's first stage (arXiv:2304.08485). No sound is heard here.
A run that was stopped goes on bit for bit as if it had not been, given the same data and number of threads.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from supervised.answers import target_answer
from supervised.assemble import ORIGIN
from supervised.base import load_base, token_positions, weights_sha256
from supervised.config import BridgeConfig
from supervised.data.sample import Sample
from supervised.errors import CheckpointError, DataError, ModelError
from supervised.files import write_json
from supervised.losses import IGNORED, task_loss
from supervised.parts import find_device
from supervised.prompts import write_inputs
from supervised.stage_a.checkpoint import (
    Progress,
    checkpoints,
    random_states,
    read_checkpoint,
    restore,
    save_checkpoint,
)
from supervised.stage_a.schedule import order
from supervised.stage_a.trained import Trained

BASE = "base"


def train_bridge(
    assembled: Path | str,
    samples: Sequence[Sample],
    config: BridgeConfig,
    out_dir: Path | str,
    resume: bool = False,
    progress: bool = True,
    device: str = "cpu",
) -> Path:
    """Train the projector of the base in `assembled`, write the base to `out_dir`/base and return that folder.

    Args:
        assembled: from `assemble_llava`.
        samples: questions, of which those with a picture are learned from.
        config: of the training.
        out_dir: the run's folder.
        resume: go on from the checkpoint in `out_dir`; where there is none, start.
        progress: show a progress bar.
        device: where it runs.

    Raises:
        CheckpointError: `out_dir` holds an earlier run and `resume` is False; or it is damaged or of another run.
        ConfigError: this machine does not have the device.
        DataError: no sample has a picture, or one cannot be used.
        ModelError: the base has no projector, or the training diverged.
    """
    out_dir, place = Path(out_dir), find_device(device, "device")
    model, processor = load_base(assembled)
    projector = getattr(model.base_model, "multi_modal_projector", None)
    if projector is None:
        raise ModelError(f"base {str(assembled)!r} has no multi_modal_projector; give a folder of assemble_llava.")
    model.to(place)
    projector.float().requires_grad_(True)  # moments and small steps would vanish in half precision
    cast = projector.register_forward_pre_hook(lambda _, args: tuple(states.float() for states in args))
    seen = [index for index in range(len(samples)) if samples[index].image is not None]
    if not seen:
        raise DataError("no sample has a picture, so nothing can be learned about pictures; give such samples.")
    settings = {name: value for name, value in asdict(config).items() if name != "checkpoint_every"}
    identity = {"bridge": settings, "base": weights_sha256(model), "samples": len(seen)}
    optimizer = torch.optim.AdamW(projector.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    trained = Trained(projector, optimizer)
    state = _open(out_dir, resume, identity, trained)
    steps = tqdm(range(state.step, config.steps), desc="Bridge", unit="step", disable=not progress)
    for step in steps:
        batch = [samples[seen[place]] for place in _places(step, len(seen), config)]
        loss = bridge_loss(model, processor, batch)
        _update(optimizer, loss, step, config)
        state.step = step + 1
        steps.set_postfix(loss=f"{loss.item():.3f}")
        if state.step % config.checkpoint_every == 0 or state.step == config.steps:
            save_checkpoint(out_dir, state, identity, trained, random_states())
    cast.remove()
    return _write(model, projector, processor, Path(assembled), out_dir)


def bridge_loss(model: Any, processor: Any, samples: Sequence[Sample]) -> Tensor:
    """Return the mean cross-entropy of the tokens of the samples' answers, a scalar in float32."""
    inputs = write_inputs(processor, samples).to(model.device, dtype=model.dtype)
    tokenizer = processor.tokenizer
    answers = [_answer(tokenizer, sample) for sample in samples]
    longest = max(map(len, answers))
    labels = torch.tensor([answer + [IGNORED] * (longest - len(answer)) for answer in answers]).to(model.device)
    told = labels != IGNORED  # (B, K)
    attended = torch.cat([inputs["attention_mask"], told.long()], 1)  # (B, L + K)
    output = model(
        input_ids=torch.cat([inputs["input_ids"], labels.masked_fill(~told, tokenizer.pad_token_id)], 1),
        attention_mask=attended,
        # A GPT-2 counts its positions from the left edge, padding included, unless it is told them.
        position_ids=token_positions(attended),
        pixel_values=inputs["pixel_values"],
        logits_to_keep=longest + 1,
        use_cache=False,
    )
    return task_loss(output.logits[:, :-1], labels)


def _answer(tokenizer: Any, sample: Sample) -> list[int]:
    """Return the token ids of a sample's answer and of the end; the blank before it belongs to its first word."""
    ids = tokenizer(f" {target_answer(sample.answers)}", add_special_tokens=False)["input_ids"]
    if not ids:
        raise DataError(f"sample {sample.id!r}: its answer has no token in the base's vocabulary; correct it.")
    if tokenizer.eos_token_id is None:
        raise ModelError("the base's tokenizer has no end token, so no answer could end; give one that has.")
    return [*ids, tokenizer.eos_token_id]


def _places(step: int, count: int, config: BridgeConfig) -> Iterator[int]:
    """Yield which of `count` samples a step uses: a stream of shuffled epochs, cut into batches."""
    for place in range(step * config.batch_size, (step + 1) * config.batch_size):
        epoch, offset = divmod(place, count)
        yield int(order(count, config.seed, f"bridge {epoch}")[offset])


def _update(optimizer: torch.optim.Optimizer, loss: Tensor, step: int, config: BridgeConfig) -> None:
    """Take one step with its learning rate: a linear warm-up, then a cosine to 0."""
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    factor = (step + 1) / config.warmup_steps if done < 0 else 0.5 * (1 + math.cos(math.pi * done))
    trained = optimizer.param_groups[0]["params"]
    optimizer.param_groups[0]["lr"] = config.lr * factor
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = float(nn.utils.clip_grad_norm_(trained, config.clip_norm))
    if not math.isfinite(norm):
        raise ModelError(f"the bridge diverged at step {step + 1} (gradient norm {norm}); lower bridge.lr.")
    optimizer.step()


def _open(folder: Path, resume: bool, identity: dict[str, Any], trained: Trained) -> Progress:
    """Return where the run stands, with its checkpoint in what is trained."""
    found = checkpoints(folder)
    if not found:
        return Progress()
    if not resume:
        raise CheckpointError(
            f"{folder} holds an earlier run ({found[-1].name}); go on with --resume, or give another folder."
        )
    state, saved, tensors, _ = read_checkpoint(found[-1])
    if saved != json.loads(json.dumps(identity)):
        changed = sorted(name for name in identity if saved.get(name) != json.loads(json.dumps(identity[name])))
        raise CheckpointError(
            f"{folder} holds a run of another configuration (different: {', '.join(changed)}); give another folder."
        )
    restore(tensors, trained)
    return state


def _write(model: Any, projector: nn.Module, processor: Any, assembled: Path, out_dir: Path) -> Path:
    """Write the base with its trained projector."""
    final, temporary = out_dir / BASE, out_dir / f".{BASE}.new"
    projector.to(model.lm_head.weight.dtype).requires_grad_(False)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        origin = assembled / ORIGIN
        known = json.loads(origin.read_text(encoding="utf-8")) if origin.is_file() else {}
        write_json(temporary / ORIGIN, known | {"projector": "trained"})
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final
