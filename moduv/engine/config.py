"""Stage configurations: frozen dataclasses, presets as YAML, command-line overrides.

A preset is a YAML file in `moduv/presets` with one section per stage. The configuration in force is
written as `config.yaml` beside every output.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from moduv.engine.errors import InputError
from moduv.engine.files import atomic_path

Config = TypeVar("Config")
NOT_DECISIVE = frozenset({"workers", "cache_bytes", "save_every", "log_every"})
"""Fields of any configuration that do not decide what a stage makes."""


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("moduv") / "presets"
    return sorted(
        item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")
    )


def read_preset(preset: str) -> dict[str, Any]:
    """All sections of a preset: a built-in name, or the path of a YAML file of the same form.

    A preset that `extends` another one has its sections, with single keys replaced.
    """
    sections = _read_sections(preset)
    base = sections.pop("extends", None)
    if base is None:
        return sections
    if not isinstance(base, str) or base == preset:
        raise InputError(f"preset {preset!r}: extends {base!r}; name another preset there.")
    merged = read_preset(base)
    for section, values in sections.items():
        merged[section] = {**merged.get(section, {}), **values}
    return merged


def _read_sections(preset: str) -> dict[str, Any]:
    path = Path(preset)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise InputError(
                f"{path}: no such preset file; give a YAML file or one of {preset_names()}."
            )
        return _parse(path.read_text(), str(path))
    if preset not in preset_names():
        raise InputError(f"preset {preset!r} does not exist; choose one of {preset_names()}.")
    source = resources.files("moduv") / "presets" / f"{preset}.yaml"
    return _parse(source.read_text(), f"preset {preset!r}")


def load_preset(config_class: type[Config], preset: str, section: str, **overrides: Any) -> Config:
    """Build a stage's configuration from a preset's section and overrides.

    Raises InputError for unknown presets, sections and keys.
    """
    sections = read_preset(preset)
    if section not in sections:
        raise InputError(
            f"preset {preset!r}: has no section {section!r}; it has {sorted(sections)}."
        )
    return build(config_class, {**sections[section], **overrides}, f"preset {preset!r}, {section}")


def build(config_class: type[Config], values: dict[str, Any], source: str) -> Config:
    """Turn nested dictionaries into a (nested) dataclass. Raises InputError for unknown keys."""
    hints = typing.get_type_hints(config_class)
    names = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise InputError(
                f"{source}: unknown key {key!r}; {config_class.__name__} has {sorted(names)}."
            )
    resolved = {
        key: _convert(hints[key], value, f"{source}.{key}") for key, value in values.items()
    }
    try:
        return config_class(**resolved)
    except TypeError as error:
        raise InputError(f"{source}: {error}; add the missing key.") from None


def save_config(path: str | Path, config: Any) -> None:
    """Write a configuration as YAML, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dictionaries, lists and numbers of a configuration."""
    return _plain(dataclasses.asdict(config))


def decisive(value: Any) -> Any:
    """`to_dict` without what only decides how fast, and how closely watched, the same comes out.

    Those are the fields in `NOT_DECISIVE`, and of a class with a `SPEED_ONLY` the fields named there.
    """
    if dataclasses.is_dataclass(value):
        ignored = NOT_DECISIVE | set(getattr(value, "SPEED_ONLY", ()))
        names = [field.name for field in dataclasses.fields(value) if field.name not in ignored]
        return {name: decisive(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: decisive(item) for key, item in value.items()}
    return [decisive(item) for item in value] if isinstance(value, list | tuple) else _plain(value)


def difference(found: Any, expected: Any) -> str:
    """Where two plain configurations first differ, as `key: this instead of that`."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            if found.get(key) != expected.get(key):
                return f"{key}: {difference(found.get(key), expected.get(key))}"
    return f"{found!r} instead of {expected!r}"


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not readable as YAML ({error}); mend the file.") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{source}: holds no sections; see the presets in moduv/presets for the form."
        )
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(hint: Any, value: Any, source: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(typing.cast(Any, hint), value, source)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        hint = next(item for item in arguments if item is not type(None))
        return _convert(hint, value, source)
    if origin is tuple and isinstance(value, list | tuple):
        inner = arguments[0] if len(arguments) == 2 and arguments[1] is Ellipsis else None
        kinds = [inner] * len(value) if inner else list(arguments)
        return tuple(_convert(kind, item, source) for kind, item in zip(kinds, value, strict=False))
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], item, source) for key, item in value.items()}
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            raise InputError(f"{source}: {value!r} is not a number; give a number.") from None
    plain = origin or hint
    if isinstance(plain, type) and plain in (int, str, bool) and type(value) is not plain:
        raise InputError(f"{source}: {value!r} is not of type {plain.__name__}; mend the value.")
    return value
