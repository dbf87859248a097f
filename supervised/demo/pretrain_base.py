"""Pretraining of the tiny LLaVA, in three steps, each on scenes drawn on the spot.

1. The vision tower learns what stands in every patch: class and colour (dense supervision).
2. The language model learns to answer on exact patches, each the sum of the word embeddings of its class, its
   colour and its place: first about the picture only (binding a name to its patch forms slowly, and not at all
   beside easier questions), then about both.
3. All parts together learn on rendered pictures, the projector still pulled towards those sums.

Half of the questions come with what is heard as text ("hear : dog and rain ."). This is what later lets the frozen
language model read the sound that an adapter adds to its embeddings. No clip is ever heard here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from supervised.demo.config import BasePretraining
from supervised.demo.pictures import SIZE, render_picture
from supervised.demo.questions import Question, draw_question, hearing
from supervised.demo.steps import HALF, Progress, one_cycle
from supervised.demo.vocabulary import IMAGE_TOKEN, make_tokenizer
from supervised.demo.world import GRID, POSITIONS, Scene, draw_scene

PATCHES = GRID * GRID
EMPTY = "empty"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% elif part['type'] == 'text' %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}answer :{% endif %}"
)
PICTURES_FIRST = 0.7
"""Share of the second step in which only pictures are asked about."""


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Return an untrained LLaVA of 1.1 M parameters: 9 patches, width 128, 4 layers, tied embeddings."""
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=SIZE // GRID,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        # 0.05 rather than the usual 0.02: at this width, binding a name to its patch does not form otherwise.
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the base's processor: pictures of 48 x 48 pixels, a chat template that ends in "answer :"."""
    images = CLIPImageProcessorPil(
        do_resize=True,
        size={"height": SIZE, "width": SIZE},
        do_center_crop=False,
        do_convert_rgb=True,
        image_mean=[0.25, 0.25, 0.25],
        image_std=[0.25, 0.25, 0.25],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=SIZE // GRID,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


class Batches:
    """Endless batches of scenes, as the three steps want them."""

    def __init__(self, processor: LlavaProcessor, size: int, seed: int) -> None:
        self.tokenizer = processor.tokenizer
        self.images = processor.image_processor
        self.size = size
        self.rng = np.random.default_rng([seed, 20])

    def scenes(self) -> list[Scene]:
        """Draw one batch of scenes."""
        return [draw_scene(self.rng) for _ in range(self.size)]

    def pixels(self, scenes: list[Scene]) -> Tensor:
        """Render scenes: float32 [B, 3, 48, 48]."""
        pictures = [render_picture(scene) for scene in scenes]
        return self.images(pictures, return_tensors="pt")["pixel_values"]

    def patches(self, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        """Return the class and the colour word id of every patch, both int64 [B, 9]; "empty" where nothing stands."""
        word = self.tokenizer.convert_tokens_to_ids
        kinds = torch.full((len(scenes), PATCHES), word(EMPTY))
        colors = kinds.clone()
        for row, scene in enumerate(scenes):
            for thing in scene.objects:
                kinds[row, thing.cell], colors[row, thing.cell] = word(thing.kind), word(thing.color)
        return kinds, colors

    def place_words(self, cell: int) -> list[int]:
        """Return the word ids of a cell's name: one, or two at the corners."""
        return self.tokenizer.convert_tokens_to_ids(POSITIONS[cell // GRID][cell % GRID].split())

    def dialogue(self, scenes: list[Scene], audio_share: float) -> tuple[Tensor, Tensor, Tensor]:
        """Ask one question a scene: input ids, attention mask, labels (answer and end only), each int64 [B, L]."""
        rows = [self._turn(scene, audio_share) for scene in scenes]
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (prompt, answer) in enumerate(rows):
            length = len(prompt) + len(answer)
            ids[row, -length:] = torch.tensor(prompt + answer)
            mask[row, -length:] = 1
            labels[row, -len(answer) :] = torch.tensor(answer)
        return ids, mask, labels

    def _turn(self, scene: Scene, audio_share: float) -> tuple[list[int], list[int]]:
        question = draw_question(self.rng, scene, needs_audio=bool(self.rng.random() < audio_share))
        # While only pictures are asked about, nothing is heard either: the prompts stay short.
        asked = self._worded(scene, question) if audio_share > 0 else question.text
        text = f"{IMAGE_TOKEN} {asked} answer :"
        prompt = self.tokenizer(text)["input_ids"]
        image = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        at = prompt.index(image)
        prompt = prompt[:at] + [image] * PATCHES + prompt[at + 1 :]
        answer = self.tokenizer(question.answer, add_special_tokens=False)["input_ids"]
        return prompt, [*answer, self.tokenizer.eos_token_id]

    def _worded(self, scene: Scene, question: Question) -> str:
        """Put what is heard before or behind the question in half of the cases."""
        if self.rng.random() < 0.5:
            return question.text
        heard = f"hear : {hearing(scene.sources)} ."
        return f"{heard} {question.text}" if self.rng.random() < 0.7 else f"{question.text} {heard}"


def pretrain_base(config: BasePretraining, out_dir: Path, progress: Progress) -> None:
    """Train the tiny LLaVA and save it with its processor in `out_dir`."""
    torch.manual_seed(config.seed)
    tokenizer = make_tokenizer(end=False)
    processor = make_processor(tokenizer)
    model = make_model(tokenizer)
    batches = Batches(processor, config.batch_size, config.seed)
    _see(model, batches, config, progress)
    _read(model, batches, config, progress)
    _join(model, batches, config, progress)
    model.eval().save_pretrained(out_dir)
    processor.save_pretrained(out_dir)


def _steps(parameters: Iterable[nn.Parameter], lr: float, steps: int) -> Iterator[Callable[[Tensor], None]]:
    return one_cycle([{"params": list(parameters), "weight_decay": 0.01}], lr, steps, betas=(0.9, 0.98))


def _see(model: LlavaForConditionalGeneration, batches: Batches, config: BasePretraining, progress: Progress) -> None:
    tower = model.model.vision_tower
    kinds, colors = (nn.Linear(tower.config.hidden_size, len(batches.tokenizer)) for _ in range(2))
    parameters = [*tower.parameters(), *kinds.parameters(), *colors.parameters()]
    for step, update in enumerate(_steps(parameters, config.lr, config.vision_steps)):
        scenes = batches.scenes()
        seen = tower(batches.pixels(scenes)).last_hidden_state[:, 1:]  # (B, 9, Dv)
        targets = batches.patches(scenes)
        loss = F.cross_entropy(kinds(seen).flatten(0, 1), targets[0].flatten())
        loss = loss + F.cross_entropy(colors(seen).flatten(0, 1), targets[1].flatten())
        update(loss)
        if step % 100 == 0 or step == config.vision_steps - 1:
            progress(f"base, seeing: step {step}/{config.vision_steps}, loss {loss.item():.4f}")


def _exact_patches(model: LlavaForConditionalGeneration, batches: Batches, scenes: list[Scene]) -> Tensor:
    kinds, colors = batches.patches(scenes)
    table = model.get_input_embeddings().weight
    places = torch.stack([table[batches.place_words(cell)].sum(0) for cell in range(PATCHES)])  # (9, D)
    return table[kinds] + table[colors] + places  # (B, 9, D)


def _answer_loss(
    model: LlavaForConditionalGeneration, batches: Batches, scenes: list[Scene], patches: Tensor, audio_share: float
) -> Tensor:
    ids, mask, labels = batches.dialogue(scenes, audio_share)
    embeddings = model.get_input_embeddings()(ids)
    places = (ids == model.config.image_token_id).unsqueeze(-1)
    embeddings = embeddings.masked_scatter(places, patches.to(embeddings.dtype))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    target = labels[:, 1:]
    spoken = target != -100
    with HALF:
        hidden = model.model.language_model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions
        ).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[spoken])
    return F.cross_entropy(logits.float(), target[spoken])


def _read(model: LlavaForConditionalGeneration, batches: Batches, config: BasePretraining, progress: Progress) -> None:
    # The head is tied to the word embeddings, so the language model's own parameters are all there are.
    for step, update in enumerate(_steps(model.model.language_model.parameters(), config.lr, config.text_steps)):
        scenes = batches.scenes()
        audio_share = 0.0 if step < PICTURES_FIRST * config.text_steps else 0.5
        loss = _answer_loss(model, batches, scenes, _exact_patches(model, batches, scenes), audio_share)
        update(loss)
        if step % 100 == 0 or step == config.text_steps - 1:
            progress(f"base, reading: step {step}/{config.text_steps}, loss {loss.item():.4f}")


def _join(model: LlavaForConditionalGeneration, batches: Batches, config: BasePretraining, progress: Progress) -> None:
    for step, update in enumerate(_steps(model.parameters(), config.lr / 2, config.joint_steps)):
        scenes = batches.scenes()
        features = model.model.get_image_features(pixel_values=batches.pixels(scenes)).pooler_output
        patches = torch.stack(list(features))  # (B, 9, D)
        exact = _exact_patches(model, batches, scenes).detach()
        loss = _answer_loss(model, batches, scenes, patches, audio_share=0.5)
        pull = F.mse_loss(patches, exact) / exact.pow(2).mean()
        update(loss + pull)
        if step % 100 == 0 or step == config.joint_steps - 1:
            progress(
                f"base, together: step {step}/{config.joint_steps}, loss {loss.item():.4f}, pull {pull.item():.4f}"
            )
