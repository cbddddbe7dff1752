"""Stage configurations: frozen dataclasses, presets as YAML, command-line overrides.

A preset is a YAML file in `moduv/presets` with one section per stage. It holds only what differs from
the defaults or from the preset that it extends: mappings merge at every depth, lists and scalars replace.
The configuration in force is written as `config.yaml` beside every output.
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
                f"preset {preset!r}: 'extends' is {base!r}; name another preset, which must not lead back."
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
        try:
            return _parse(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError:
            raise InputError(f"{path}: is not UTF-8 text; save the file as UTF-8.") from None
    if preset not in preset_names():
        raise InputError(f"preset {preset!r} does not exist; choose one of {preset_names()}.")
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


def speed_only(default: Any) -> Any:
    """A field of a configuration that decides how fast a result is made or how often it is logged.

    Results do not depend on it, so a stage may continue with another value.
    """
    return dataclasses.field(default=default, metadata={"speed_only": True})


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
    values = without_retired(values, source)
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
    """`to_dict` without the fields declared as `speed_only`."""
    if dataclasses.is_dataclass(value):
        fields = [f for f in dataclasses.fields(value) if not f.metadata.get("speed_only")]
        return {field.name: decisive(getattr(value, field.name)) for field in fields}
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
        raise InputError(f"{source}: is not valid YAML ({error}); correct the file.") from None
    except RecursionError:
        raise InputError(f"{source}: is nested too deep; see moduv/presets for the form.") from None
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
