"""Vocabularies of names: a YAML file of names, their synonyms, and templates."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Hashable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from moduv.engine.errors import InputError
from moduv.engine.files import read_text, reason_of
from moduv.naming.encoders import Encoder, unit

KINDS = ("mobile", "static", "stuff")
TEMPLATES = ("a photo of a {}", "a {} on the street", "a blurry photo of a {}")
LARGEST = 1 << 20
"""Characters of a vocabulary file."""


@dataclass(frozen=True)
class Name:
    """A name and what it stands for."""

    name: str
    also: tuple[str, ...] = ()
    """Synonyms; the most similar of all its words counts for a name."""
    kind: str = "mobile"
    """`mobile` and `static` objects are named; what looks like `stuff` is no object."""
    like: str = ""
    """`GROUPS.json#group_01`: the group of unknown objects of an earlier run that this is the name of."""

    @property
    def words(self) -> tuple[str, ...]:
        """The name and its synonyms."""
        return (self.name, *self.also)


@dataclass(frozen=True)
class Vocabulary:
    """Names, and the templates of the sentences in which they are encoded."""

    names: tuple[Name, ...]
    templates: tuple[str, ...] = TEMPLATES

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("the vocabulary is empty; write at least one name.")
        if not self.templates or any(
            [t.count(mark) for mark in ("{}", "{", "}")] != [1, 1, 1] for t in self.templates
        ):
            raise InputError("'templates' are sentences with one {} each; correct them.")
        seen: dict[str, str] = {}
        for entry in self.names:
            for word in map(spoken, entry.words):
                if not word:
                    raise InputError(f"{entry.name!r} has an empty word; remove it.")
                same = unicodedata.normalize("NFKC", word).casefold()  # as encoders read it
                if same in seen:
                    raise InputError(
                        f"{word!r} stands for {seen[same]!r} and for {entry.name!r}; keep it once."
                    )
                seen[same] = entry.name
            if entry.kind not in KINDS:
                raise InputError(
                    f"{entry.name!r} has the kind {entry.kind!r:.40}; use one of {', '.join(KINDS)}."
                )

    @classmethod
    def load(cls, source: str | Path) -> Vocabulary:
        """Load a YAML file, or a vocabulary of the package by its name.

        The file has `names`, a mapping from names to `also`, `kind` and `like` (or to nothing), and optionally `templates`.

        Raises:
            InputError: when the file is missing, empty or broken, or a word occurs twice.
        """
        path = Path(source)
        if path.suffix.lower() in {".yaml", ".yml"}:
            text = read_text(path, largest=LARGEST)
        elif str(source) in vocabulary_names():
            text = (_folder() / f"{source}.yaml").read_text()
        else:
            raise InputError(
                f"vocabulary {str(source)!r:.80} is unknown; give a YAML file or one of {vocabulary_names()}."
            )
        try:
            return _of_content(_parse(text))
        except InputError as error:
            raise InputError(f"{source}: {error}") from None

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        content = [[e.name, e.also, e.kind, e.like] for e in self.names], self.templates
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def spoken(self) -> tuple[Name, ...]:
        """The names that are recognised by their words, not by a prototype."""
        return tuple(entry for entry in self.names if not entry.like)

    def encode(self, encoder: Encoder) -> Words:
        """Encode the words of `spoken` as unit vectors, averaged over the templates.

        Raises InputError when all names are those of groups.
        """
        entries = self.spoken
        if not entries:
            raise InputError("the vocabulary has names of groups alone; add one that has words.")
        words = [spoken(word) for entry in entries for word in entry.words]
        prompts = [template.format(word) for word in words for template in self.templates]
        vectors = encoder.text(prompts).reshape(len(words), len(self.templates), -1)
        owners = np.repeat(np.arange(len(entries)), [len(entry.words) for entry in entries])
        return Words(entries, unit(vectors.mean(1)), owners)


@dataclass(frozen=True)
class Words:
    """Encoded names."""

    names: tuple[Name, ...]
    vectors: np.ndarray
    """(W, E), unit, one per word."""
    owners: np.ndarray
    """(W,): index of the name of each word, ascending."""

    def cosines(self, embeddings: np.ndarray) -> np.ndarray:
        """Cosines (N, names) between unit embeddings (N, E) and names, each by its most similar word."""
        cosines = embeddings @ self.vectors.T
        starts = np.flatnonzero(np.diff(self.owners, prepend=-1))
        return np.maximum.reduceat(cosines, starts, axis=1)


def spoken(word: str) -> str:
    """A word as it stands in a sentence, with spaces for underscores."""
    return " ".join(word.replace("_", " ").split())


def vocabulary_names() -> list[str]:
    """Names of the vocabularies in the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder().iterdir())


def _folder() -> Any:
    return resources.files("moduv.naming") / "vocabularies"


class _Loader(yaml.SafeLoader):
    """YAML without aliases and with every key once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has aliases; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if key in seen:
                raise ValueError(f"{key!r:.80} occurs twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    # Beside its own errors YAML has those of numbers, dates and recursion.
    except Exception as error:
        raise InputError(f"is not valid YAML ({reason_of(error)}); correct the file.") from None


def _of_content(content: Any) -> Vocabulary:
    if not isinstance(content, dict) or not isinstance(content.get("names"), dict):
        raise InputError("the vocabulary is empty; write 'names' with at least one name.")
    unknown = next((key for key in content if key not in {"names", "templates"}), None)
    if unknown is not None:
        raise InputError(f"unknown key {unknown!r:.80}; write 'names' and perhaps 'templates'.")
    templates = content.get("templates", list(TEMPLATES))
    if not _is_words(templates):
        raise InputError("'templates' is no list of sentences; correct it.")
    return Vocabulary(tuple(map(_of_entry, content["names"].items())), tuple(templates))


def _of_entry(item: tuple[Any, Any]) -> Name:
    name, told = item
    told = {} if told is None else told
    if not isinstance(name, str) or not isinstance(told, dict) or told.keys() - {*_KEYS}:
        raise InputError(
            f"name {name!r:.80} is {told!r:.80}; write a word and, if need be, {', '.join(_KEYS)}."
        )
    values = {key: told.get(key, default) for key, default in _KEYS.items()}
    if not _is_words(values["also"]) or not _is_words([values["kind"], values["like"]]):
        raise InputError(f"name {name!r:.80} is {told!r:.80}; write words.")
    return Name(name, tuple(values["also"]), values["kind"], values["like"])


_KEYS: dict[str, Any] = {"also": [], "kind": "mobile", "like": ""}


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
