"""How the options of a command are shown."""

from __future__ import annotations

import copy
from argparse import Action

from jsonargparse import DefaultHelpFormatter

SECTION = "Path to a configuration file."
"""The parser's help of an option that takes a section of a preset."""


class Options(DefaultHelpFormatter):
    """The options of a command, without what only the parser needs to know."""

    def _format_action(self, action: Action) -> str:
        """Sections of a preset are given by `--preset` and `--cfg`, single values by their names."""
        return "" if action.help == SECTION else super()._format_action(action)

    def _format_action_invocation(self, action: Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = [name for name in action.option_strings if not name.endswith("+")]
        if str(action.metavar).startswith("'["):
            shown.metavar = None
        return str(super()._format_action_invocation(shown))

    def _get_help_string(self, action: Action) -> str:
        """A value that the preset gives is not asked for."""
        shown = copy.copy(action)
        shown.required = action.required and action.default is None
        return str(super()._get_help_string(shown))

    def _get_type_str(self, action: Action) -> str | None:
        name = super()._get_type_str(action)
        return name and name.removeprefix("<class '").removesuffix("'>")
