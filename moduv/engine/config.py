"""Stage configurations: frozen dataclasses, presets as YAML, command-line overrides.

A preset is a YAML file in `moduv/presets` with one section per stage. It holds only what differs from
the defaults or from the preset that it extends: mappings merge at every depth, lists and scalars replace.
The configuration in force is written as `config.yaml` beside every output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path, read_text, reason_of

Config = TypeVar("Config")
MERGE = "tag:yaml.org,2002:merge"
LARGEST = 1 << 20
"""Characters that a preset may have, also where YAML's aliases repeat them."""


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("moduv") / "presets"
    return sorted(
        item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")
    )


def read_preset(preset: str) -> dict[str, Any]:
    """All sections of a preset: a built-in name, or the path of a YAML file of the same form.

    A preset that `extends` another one has its sections, with single keys replaced at any depth.

    Raises:
        InputError: for an unknown preset, a broken file, or presets that extend each other.
    """
    chain = {preset: _read_sections(preset)}
    while "extends" in chain[preset]:
        base = chain[preset].pop("extends")
        if not isinstance(base, str) or base in chain:
            raise InputError(
                f"preset {preset!r}: 'extends' is {base!r:.80}; name another preset, which must not lead back."
            )
        chain[base] = _read_sections(base)
        preset = base
    merged: dict[str, Any] = {}
    for sections in reversed(chain.values()):
        merged = merge(merged, sections)
    return merged


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: mappings merge at every depth, anything else replaces. Both stay as they are."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            value = merge(before, value)
        merged[key] = value
    return merged


def _read_sections(preset: str) -> dict[str, Any]:
    path = Path(preset)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise InputError(
                f"{path}: no such preset file; give a YAML file or one of {preset_names()}."
            )
        return _parse(read_text(path, largest=LARGEST), str(path))
    if preset not in preset_names():
        raise InputError(f"preset {preset!r:.80} does not exist; choose one of {preset_names()}.")
    source = resources.files("moduv") / "presets" / f"{preset}.yaml"
    return _parse(source.read_text(), f"preset {preset!r}")


def load_preset(config_class: type[Config], preset: str, section: str, **overrides: Any) -> Config:
    """Build a stage's configuration from a preset's section and overrides.

    A section that the preset lacks means the defaults.

    Raises:
        InputError: for unknown presets and keys, and values of the wrong type.
    """
    values = merge(read_preset(preset).get(section) or {}, overrides)
    return build(config_class, values, f"preset {preset!r}, {section}")


def at_least(least: float, config: Any, *names: str) -> None:
    """Raise InputError naming the first of some settings that is smaller."""
    for name in names:
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}; use {least} or more.")


def speed_only(default: Any) -> Any:
    """A field of a configuration that decides how fast a result is made or how often it is logged.

    Results do not depend on it, so a stage may continue with another value.
    """
    return dataclasses.field(default=default, metadata={"speed_only": True})


def added(default: Any) -> Any:
    """A field of a configuration that older outputs lack, whose default does what was done before.

    It tells outputs apart only where it is set otherwise, so older ones stay valid.
    """
    return dataclasses.field(default=default, metadata={"added": True})


RETIRED = frozenset(
    {"labels_preset", "ema", "drop_below", "soft", "mosaic", "colour", "grow", "one_to_one"}
    | {"veto_by_survivors", "binary_cover"}
)
"""Settings of version 0.1 that are gone; files that switch them off, or name a preset, still work."""


def without_retired(values: dict[str, Any], source: str) -> dict[str, Any]:
    """Settings without those that this version no longer has.

    Raises InputError where one of them would change the result.
    """
    for key, value in values.items():
        if key in RETIRED and not _is_off(key, value):
            raise InputError(
                f"{source}: {key!r} was removed in version 0.2; take it out of the file."
            )
    return {key: value for key, value in values.items() if key not in RETIRED}


def of_this_version(settings: Any) -> Any:
    """Plain settings of an older file without retired ones that had no effect."""
    if not isinstance(settings, dict):
        return settings
    kept = {k: v for k, v in settings.items() if k not in RETIRED or not _is_off(k, v)}
    return {key: of_this_version(value) for key, value in kept.items()}


def _is_off(key: str, value: Any) -> bool:
    """Whether a retired setting has no effect; label settings are read from manifests now."""
    return not value or key == "labels_preset"


def build(config_class: type[Config], values: dict[str, Any], source: str) -> Config:
    """Turn nested dictionaries into a (nested) dataclass. Raises InputError for unknown keys."""
    if not isinstance(values, dict):
        raise InputError(f"{source}: is {values!r:.80}; write a mapping of keys to values.")
    values = without_retired(values, source)
    hints = typing.get_type_hints(config_class)
    names = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise InputError(
                f"{source}: unknown key {key!r:.80}; {config_class.__name__} has {sorted(names)}."
            )
    resolved = {
        key: _convert(hints[key], value, f"{source}.{key}") for key, value in values.items()
    }
    missing = [name for name in _required(config_class) if name not in resolved]
    if missing:
        lacking = ", ".join(map(repr, missing))
        raise InputError(
            f"{source}: lacks {lacking}; add the missing key, or choose a preset that has it."
        )
    try:
        return config_class(**resolved)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _required(config_class: type) -> list[str]:
    """The fields of a dataclass that have no default."""
    unset = dataclasses.MISSING
    return [
        field.name
        for field in dataclasses.fields(config_class)
        if field.default is unset and field.default_factory is unset
    ]


def save_config(path: str | Path, config: Any) -> None:
    """Write a configuration as YAML, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers of a configuration."""
    return _plain(dataclasses.asdict(config))


def decisive(value: Any, name: str = "a setting") -> Any:
    """`to_dict` without fields that are `speed_only`, or `added` and unused. Raises InputError for NaN and infinity."""
    if dataclasses.is_dataclass(value):
        fields = [f for f in dataclasses.fields(value) if not f.metadata.get("speed_only")]
        told = {f.name: getattr(value, f.name) for f in fields}
        unused = {f.name for f in fields if f.metadata.get("added") and told[f.name] == f.default}
        return {name: decisive(item, name) for name, item in told.items() if name not in unused}
    if isinstance(value, dict):
        return {key: decisive(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [decisive(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} is {value}; give a finite number.")
    return _plain(value)


def difference(found: Any, expected: Any) -> str:
    """Where two plain configurations first differ, as `key: this instead of that`."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            if found.get(key) != expected.get(key):
                return f"{key}: {difference(found.get(key), expected.get(key))}"
    return f"{found!r:.80} instead of {expected!r:.80}"


class _Loader(yaml.SafeLoader):
    """YAML whose mappings have every key once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(
            key.value
            for key, _ in node.value
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE
        )
        for key, count in keys.items():
            if count > 1:
                raise ValueError(f"the key {key!r:.80} occurs twice")
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file of keys and values. Raises InputError when it is something else, or names a key twice."""
    content = _load(read_text(path, largest=LARGEST), str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no options; write a key and its value on each line.")
    return content


def _load(text: str, source: str) -> Any:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if _written_out(node, {}) > LARGEST:
            raise ValueError("its aliases repeat too much")
        content = loader.construct_document(node) if node else None
    # Beside its own errors YAML has those of numbers, dates and recursion.
    except Exception as error:
        raise InputError(
            f"{source}: is not valid YAML ({reason_of(error)}); correct the file."
        ) from None
    return content


def _parse(text: str, source: str) -> dict[str, Any]:
    content = _load(text, source)
    if not isinstance(content, dict):
        raise InputError(
            f"{source}: holds no sections; see the presets in moduv/presets for the form."
        )
    for section, values in content.items():
        if not isinstance(section, str) or not (section == "extends" or isinstance(values, dict)):
            raise InputError(
                f"{source}: section {section!r} is {values!r:.80}; write a mapping of keys to values."
            )
    return content


def _written_out(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Characters of a node with its aliases written out; too many for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = LARGEST
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        own = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        known[id(node)] = 1 + own + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(hint: Any, value: Any, source: str) -> Any:
    """A value of a file as the type of its field. Raises InputError where it is of another one."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        hint = next(item for item in arguments if item is not type(None))
        return _convert(hint, value, source)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return build(typing.cast(Any, hint), value, source)
        if isinstance(value, typing.cast(Any, hint)):
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        repeated = len(arguments) == 2 and arguments[1] is Ellipsis
        kinds = arguments[:1] * len(value) if repeated else arguments
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return tuple(_convert(kind, item, source) for kind, item in pairs)
    elif origin is dict and isinstance(value, dict):
        return {k: _convert(arguments[1], v, f"{source}.{k!s:.80}") for k, v in value.items()}
    elif hint is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            if math.isfinite(number := float(value)):
                return number
        raise InputError(f"{source}: {value!r:.80} is not a number; give a finite number.")
    elif type(value) is hint and _is_plain(value):
        return value
    name = "mapping" if dataclasses.is_dataclass(hint) else (origin or hint).__name__
    raise InputError(f"{source}: {value!r:.80} is not of type {name}; mend the value.")


def _is_plain(value: bool | int | str) -> bool:
    """Whether other programs can take a value: whole numbers of 64 bits, texts that have a coding."""
    if isinstance(value, str):
        return "\0" not in value and value == value.encode(errors="ignore").decode()
    return abs(value) < 1 << 63
