"""From argv and YAML to a frozen dataclass, with errors of one line: the key, what is allowed, what to do.

The dataclass says everything: field names are the keys, field docstrings the help, `__post_init__` the allowed values.
jsonargparse reads it: `--config FILE`, then overrides such as `--reward.alpha 0.4`; `--print_config` shows the result.
"""

from __future__ import annotations

import difflib
import math
import re
from argparse import ArgumentError
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from supervised.errors import ConfigError

Config = TypeVar("Config")


def parse(config_type: type[Config], argv: list[str], program: str, description: str) -> Config:
    """Return the configuration that `argv` describes.

    Raises:
        ConfigError: an unknown key or a value that is not allowed, in one line.
        SystemExit: after `--help` or `--print_config`.
    """
    parser = _parser(config_type, program, description)
    switches = {name for name, kind in options(config_type) if kind is bool}
    argv = _with_values(argv, switches)
    for path, before in _config_files(argv):
        _refuse_overridden(before, check_yaml(path, config_type), path)
    try:
        instances = parser.instantiate(parser.parse_args(argv))
    except ArgumentError as error:
        raise ConfigError(f"{_explain(error, config_type)}; `{program} --help` lists all options.") from error
    config = config_type(**{name: getattr(instances, name) for name in get_type_hints(config_type)})
    _refuse_nan(config, "")
    return config


def from_dict(config_type: type[Config], tree: dict[str, Any]) -> Config:
    """Return the configuration that `to_dict` took apart.

    Raises:
        ConfigError: a key is unknown or a value is not allowed, as in a tree of another version.
    """
    parser = _parser(config_type, "", "")
    try:
        instances = parser.instantiate(parser.parse_object(tree))
    except ArgumentError as error:
        raise ConfigError(f"{_explain(error, config_type)}; it was written by another version.") from error
    return config_type(**{name: getattr(instances, name) for name in get_type_hints(config_type)})


def check_yaml(path: str, config_type: type) -> dict[str, Any]:
    """Return what a YAML file holds; refuse one that is not a tree of known keys, each given once.

    Raises:
        ConfigError: names the file, the key and what is allowed.
    """
    import yaml

    class OnceLoader(yaml.SafeLoader):
        """A safe loader that refuses a key that stands twice in a section; YAML would keep the last one silently."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
                raise ConfigError(f"{path}: key {twice[0]!r} stands twice in one section; keep one of them.")
            return super().construct_mapping(node, deep)

    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=OnceLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigError(
            f"config: {path} cannot be read as YAML ({problem}); give a file such as configs/demo.yaml."
        ) from error
    if not isinstance(tree, dict):
        raise ConfigError(f"config: {path} holds no keys; give a file such as configs/demo.yaml.")
    _refuse_other_files(tree, config_type, path)
    _check_keys(tree, config_type, "", path)
    return tree


def _refuse_other_files(tree: dict[Any, Any], config_type: type, path: str) -> None:
    """Refuse a whole file that is another program's: that says more than its first key, which is unknown here."""
    from safe_rl.config import FILES

    if tree.keys() <= get_type_hints(config_type).keys():
        return
    if "compute_environment" in tree:
        raise ConfigError(
            f"{path} is a configuration of accelerate; give it as accelerate launch --config_file {path} -m "
            "safe_rl.train_stage_a, and a run as --config after that."
        )
    example = next((file for kind, _, file in FILES.values() if file and issubclass(config_type, kind)), None)
    other = f", or give a file such as {example}" if example else ""
    for command, (reader, what, _) in FILES.items():
        if tree.keys() <= get_type_hints(reader).keys():
            raise ConfigError(
                f"{path} describes {what}, which this command does not read; start python -m safe_rl.{command} "
                f"--config {path}{other}."
            )


def _refuse_overridden(before: list[str], tree: dict[str, Any], path: str) -> None:
    """Refuse options that stand before a file which sets them again: the last one wins, and that is the file."""
    for name in before:
        *sections, last = name.split(".")
        inside: Any = tree
        for section in sections:
            inside = inside.get(section) if isinstance(inside, dict) else None
        if isinstance(inside, dict) and last in inside:
            raise ConfigError(f"--{name} stands before --config {path}, which sets {name} again; give --config first.")


def _check_keys(tree: dict[Any, Any], config_type: Any, section: str, path: str) -> None:
    kinds = get_type_hints(config_type)
    for key, value in tree.items():
        name = f"{section}{key}"
        if key not in kinds:
            near = _nearest(str(key), list(kinds), "") or _nearest(name, [full for full, _ in options(config_type)], "")
            raise ConfigError(f"{path}: unknown key {name!r}{near or ';'} allowed there: {', '.join(kinds)}.")
        if is_dataclass(kinds[key]):
            if not isinstance(value, dict):
                inside = ", ".join(get_type_hints(kinds[key]))
                raise ConfigError(f"{path}: {name} is a section, got {value!r}; give keys below it: {inside}.")
            _check_keys(value, kinds[key], f"{name}.", path)


def to_yaml(config: Any) -> str:
    """Return the complete resolved configuration as YAML that `--config` reads back."""
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False, width=120)


def to_dict(config: Any) -> Any:
    """Return a dataclass as plain dictionaries, lists, strings, numbers and None."""
    if is_dataclass(config):
        return {field.name: to_dict(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    return config


def options(config_type: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the type of every field of a dataclass, nested ones included."""
    for name, kind in get_type_hints(config_type).items():
        if is_dataclass(kind):
            yield from options(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def _parser(config_type: type, program: str, description: str) -> Any:
    import jsonargparse

    class Formatter(jsonargparse.DefaultHelpFormatter):
        """Keeps the line breaks of the description, where the example commands stand."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "\n".join(indent + line for line in text.strip().splitlines())

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=program, description=description, formatter_class=Formatter, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with a complete run, such as configs/demo.yaml.")
    parser.add_class_arguments(config_type)
    return parser


def _with_values(argv: list[str], switches: set[str]) -> list[str]:
    """Let a switch such as `--resume` stand alone; jsonargparse wants a value."""
    completed = []
    for argument, follower in pairwise([*argv, "--"]):
        alone = argument.startswith("--") and argument[2:] in switches and follower.startswith("--")
        completed.append(f"{argument}=true" if alone else argument)
    return completed


def _config_files(argv: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the YAML files, and the names of the options that stand before each."""
    before: list[str] = []
    for argument, follower in pairwise([*argv, "--"]):
        if argument == "--config" and not follower.startswith("--"):
            yield follower, before
        elif argument.startswith("--config="):
            yield argument.partition("=")[2], before
        elif argument.startswith("--"):
            before.append(argument[2:].partition("=")[0])


def _explain(error: ArgumentError, config_type: type) -> str:
    """Say in one line which option is wrong and what would be right."""
    message = " ".join(str(error).split())
    kinds = dict(options(config_type))
    if match := re.search(r"unrecognized arguments: (\S+)", message):
        given = match[1].partition("=")[0]
        if not given.startswith("-"):
            return f"unexpected argument {given!r}; options look like --{next(iter(kinds))} VALUE"
        return f"unknown option {given}" + _nearest(given.lstrip("-"), list(kinds), "--").rstrip("?")
    if match := re.search(r'(?:Parser key "|argument --)([\w.]+)', message):
        name = match[1]
        if name not in kinds:
            inside = [key for key in kinds if key.startswith(f"{name}.")]
            return f"{name} is a section; give its keys, such as --{inside[0]} VALUE" if inside else message.rstrip(".")
        value = re.search(r"Given value: (.*)", message) or re.search(r"Got value: (.*)", message)
        return f"{name} must be {_allowed(kinds[name])}, got {value[1] if value else 'nothing'}"
    return message.rstrip(".")


def _allowed(kind: Any) -> str:
    """Return a type as a person reads it."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"a list such as [x, y], each {_allowed(get_args(kind)[0])}"
    if get_args(kind):
        return " or ".join(_allowed(part) for part in get_args(kind))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(kind, str(kind))


def _nearest(given: str, names: list[str], prefix: str) -> str:
    last = {name.rpartition(".")[2]: name for name in names}
    near = difflib.get_close_matches(given, names, 1) or [
        last[name] for name in difflib.get_close_matches(given.rpartition(".")[2], list(last), 1)
    ]
    return f", did you mean {prefix}{near[0]}?" if near else ""


def _refuse_nan(config: Any, prefix: str) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            _refuse_nan(value, f"{prefix}{field.name}.")
        elif any(isinstance(item, float) and math.isnan(item) for item in _items(value)):
            raise ConfigError(f"{prefix}{field.name} must be a number, got nan; give a finite value.")


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def existing_folder(path: str, key: str, remedy: str) -> Path:
    """Return `path` if it is a folder.

    Raises:
        ConfigError: it is not there; the message names the key, the path and the remedy.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{key}: {path} {what}; {remedy}")
    return folder
