"""The command line's parser: transformers', with one-line errors and a readable `--help`."""

from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from typing import Any

from transformers.hf_argparser import HfArgumentParser, string_to_bool

from model.errors import UserError


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Keep a docstring's line breaks; show one spelling of each flag, and only defaults that say something."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=118)

    def _get_help_string(self, action: Any) -> str | None:
        if action.default is None or action.default in ("", False, []):
            return action.help
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: Any) -> str:
        # The parser also takes --batch-size for --batch_size; showing both would only be noise.
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        flag_name = action.option_strings[0]
        if action.choices:
            return f"{flag_name} {{{','.join(map(str, action.choices))}}}"
        is_switch = action.nargs == "?"
        return flag_name if is_switch else f"{flag_name} {getattr(action.type, '__name__', 'value').upper()}"


def _batch_size(text: str) -> int:
    """A number of rows; "auto" is 0."""
    rows = 0 if text == "auto" else int(text)
    if rows < 1 and text != "auto":
        raise UserError(f"--batch_size: found {rows}, expected 1 or more, or auto")
    return rows


_batch_size.__name__ = "int|auto"  # how `--help` and argparse's errors call it


class SettingsParser(HfArgumentParser):
    """`HfArgumentParser` turns each field of a dataclass into a flag of the same name."""

    def __init__(self, dataclass_types: tuple[Any, ...], description: str) -> None:
        super().__init__(dataclass_types, description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        # transformers lets `--overwrite` stand for `--overwrite true`, but not where the default is None.
        for action in self._actions:
            if action.type is string_to_bool:
                action.nargs, action.const = "?", True
            if action.dest == "batch_size":
                action.type = _batch_size

    def error(self, message: str) -> Any:
        # argparse prints the whole usage; one line that says what to do is kinder.
        raise UserError(f"{message}; see {self.prog} --help")
