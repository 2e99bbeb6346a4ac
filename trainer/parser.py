"""The command line's parser: transformers', with one-line errors and a readable `--help`."""

from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from typing import Any

from transformers.hf_argparser import HfArgumentParser

from model.errors import UserError


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Keep the line breaks of a script's docstring, and show each default (but not `None` or empty ones)."""

    def _get_help_string(self, action: Any) -> str | None:
        if action.default is None or action.default == "" or action.default is False:
            return action.help
        return super()._get_help_string(action)


class SettingsParser(HfArgumentParser):
    """`HfArgumentParser` turns each field of a dataclass into a flag of the same name."""

    def __init__(self, dataclass_types: tuple[Any, ...], description: str) -> None:
        super().__init__(
            dataclass_types, description=description, formatter_class=_HelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> Any:
        # argparse prints the whole usage; one line that says what to do is kinder.
        raise UserError(f"{message}; see {self.prog} --help")
