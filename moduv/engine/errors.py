"""Errors that are the user's to mend."""

from __future__ import annotations


class InputError(Exception):
    """Bad input: one sentence that names the file, the key and the remedy.

    Entry points print the sentence and leave with exit code 2, without a traceback.
    """
