"""What the tests of hostile input share: damaged files, and the one sentence that must come of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from moduv.engine.errors import InputError

WORDS = 600
"""Characters that one sentence may have beside the path."""
quick = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sentence(work: Callable[[], object], path: Path) -> str:
    """The sentence that refuses a file; nothing where it is read. Any other error fails the test."""
    try:
        work()
    except InputError as error:
        told = str(error)
        assert str(path) in told
        assert told.endswith(".")
        assert "\n" not in told
        assert len(told) < len(str(path)) + WORDS
        assert "delete" not in told
        return told
    return ""


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """A file with a few other bytes, cut off, or anything at all."""
    places = st.integers(0, len(whole) - 1)
    changed = st.dictionaries(places, st.integers(0, 255), min_size=1, max_size=8)
    return st.one_of(
        st.binary(max_size=200),
        places.map(lambda end: whole[:end]),
        changed.map(lambda spots: bytes(spots.get(i, byte) for i, byte in enumerate(whole))),
    )
