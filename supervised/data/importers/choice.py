"""From a dataset's name to its importer: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from supervised.data.importers.audiocaps import AudioCaps
from supervised.data.importers.avqa import AVQA
from supervised.data.importers.avsd import AVSD
from supervised.data.importers.clotho import Clotho
from supervised.data.importers.coco import COCO
from supervised.data.importers.coco_karpathy import CocoKarpathy
from supervised.data.importers.config import ImportConfig
from supervised.data.importers.gqa import GQA
from supervised.data.importers.lrs3 import LRS3
from supervised.data.importers.media import PICTURE_FOLDERS, VIDEO_FOLDERS, Media
from supervised.data.importers.music_avqa import MusicAVQA
from supervised.data.importers.rows import Rows
from supervised.data.importers.textcaps import TextCaps
from supervised.data.importers.vggsound import VGGSound
from supervised.data.importers.vqa import VQA
from supervised.errors import ConfigError

VARIANTS = {"music_avqa_v2": ("balance", "bias"), "gqa": ("balanced", "all")}
"""Dataset -> its editions, the default one first."""
PICTURES = {
    "textcaps": ("train_images", "train_val_images/train_images"),
    "vizwiz": ("train", "val"),
}
"""Dataset -> folders that its own archives unpack to."""
VIDEOS = {"avsd": ("Charades_v1_480", "Charades_v1")}


def open_rows(config: ImportConfig) -> Rows:
    """Return the dataset's rows.

    Raises:
        ConfigError: a folder is not there, or the dataset has no such variant.
        DataError: its annotations are not there, or a file cannot be read.
    """
    root = _folder(config.root, "root", "give the folder with the annotations.")
    media_root = _folder(config.media, "media", "give the folder with the media.") if config.media else root
    allowed = VARIANTS.get(config.dataset, ())
    if config.variant is not None and config.variant not in allowed:
        told = f"allowed: {', '.join(allowed)}" if allowed else f"{config.dataset} has one edition only"
        raise ConfigError(f"variant {config.variant!r} is unknown; {told}; correct it or leave it out.")
    media = Media(
        media_root,
        PICTURES.get(config.dataset, ()) + PICTURE_FOLDERS,
        videos=VIDEOS.get(config.dataset, ()) + VIDEO_FOLDERS,
    )
    return _importer(config.dataset)(config, root, media)


def _importer(name: str) -> Callable[[ImportConfig, Path, Media], Rows]:
    """Return the importer of a dataset."""
    importers: dict[str, Callable[[ImportConfig, Path, Media], Rows]] = {
        "music_avqa": MusicAVQA,
        "music_avqa_v2": MusicAVQA,
        "avqa": AVQA,
        "avsd": AVSD,
        "audiocaps": AudioCaps,
        "clotho": Clotho,
        "vggsound": VGGSound,
        "vqav2": VQA,
        "vizwiz": VQA,
        "gqa": GQA,
        "coco": COCO,
        "coco_karpathy": CocoKarpathy,
        "textcaps": TextCaps,
        "lrs3": LRS3,
    }
    return importers[name]


def _folder(path: str, key: str, remedy: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{key}: {path} {what}; {remedy}")
    return folder
