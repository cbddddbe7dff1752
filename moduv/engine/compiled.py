"""Functions compiled by numba, kept on disk where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function at its first call; later processes read it from numba's folder.

    Without a folder that can be written, neither beside the package nor in the user's home, every process
    compiles it again.
    """
    compile: Any = numba.njit
    try:
        return compile(cache=True)(function)
    except RuntimeError:  # numba found no such folder
        return compile(function)
