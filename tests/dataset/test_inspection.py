"""What `inspect` prints."""

import re

import pytest

from dataset.inspection import show_rows
from dataset.packing import ROLE_CHOSEN, ROLE_CONTINUATION, ROLE_REJECTED
from model.errors import UserError
from model.tokenizer import ChatTokenizer


def test_text_rows_with_their_segments(write_set, piece, tokenizer: ChatTokenizer, capsys) -> None:
    first, second = [0, *tokenizer.encode("first"), 0], [0, *tokenizer.encode("second!")]
    rest = [second[-1], *tokenizer.encode(" and more"), 0]
    packed = write_set(
        [[piece(first, source=1), piece(second, source=2)], [piece(rest, source=2, role=ROLE_CONTINUATION)]]
    )
    show_rows(packed.folder, 1, 0)
    shown = capsys.readouterr().out
    assert "row 0, segment 1 of 2: b, 7 tokens, 6 trained ──\n<|endoftext|>⟦first<|endoftext|>⟧\n" in shown
    assert "row 0, segment 2 of 2: c, 8 tokens, 7 trained ──\n<|endoftext|>⟦second!⟧\n" in shown
    assert "row 1" not in shown
    show_rows(packed.folder, 5, 1)
    shown = capsys.readouterr().out
    assert "goes on from the row before ──\n!⟦ and more<|endoftext|>⟧" in shown
    assert "(6 slots of padding)" in shown and "row 0" not in shown


def test_only_what_the_mask_trains_is_marked(write_set, piece, tokenizer: ChatTokenizer, capsys) -> None:
    tokens = tokenizer.encode("question answer and more")
    mask = [False] * 9 + [True] * 6 + [False] * 9
    packed = write_set([[piece(tokens[:16], mask[:16])]], kind="sft")
    show_rows(packed.folder, 1, 0, in_colour=False)
    assert "question ⟦answer⟧ \n" in capsys.readouterr().out
    show_rows(packed.folder, 1, 0, in_colour=True)
    shown = capsys.readouterr().out
    assert "\033[90mquestion \033[0m\033[32manswer\033[0m\033[90m \033[0m" in shown
    assert re.sub(r"\033\[\d+m", "", shown).count("answer") == 1


def test_sides_of_a_pair_are_named(write_set, piece, capsys) -> None:
    sides = [piece([1, 70, 71], [False, True, True], role=role) for role in (ROLE_CHOSEN, ROLE_REJECTED)]
    show_rows(write_set([sides], kind="dpo").folder, 1, None)
    shown = capsys.readouterr().out
    assert "2 trained, chosen ──" in shown and "2 trained, rejected ──" in shown


def test_text_cannot_command_the_terminal(write_set, piece, tokenizer: ChatTokenizer, capsys) -> None:
    packed = write_set([[piece([0, *tokenizer.encode("\x1b[2J\x07\r\n\tx")])]])
    show_rows(packed.folder, 1, 0)
    shown = capsys.readouterr().out
    assert "⟦\\x1b[2J\\x07\\x0d\n\tx⟧" in shown and "\x1b" not in shown


def test_no_colour_where_it_is_not_wanted(write_set, piece, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = write_set([[piece([0, 70, 71])]])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show_rows(packed.folder, 1, 0)
    assert "\033[32m" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    show_rows(packed.folder, 1, 0)
    assert "\033" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "row", "message"), [(0, None, "--rows 0"), (1, 1, "rows 0 to 0"), (1, -1, "--row -1")]
)
def test_rows_that_are_not_there(write_set, piece, rows: int, row: int | None, message: str) -> None:
    packed = write_set([[piece([0, 70])]])
    with pytest.raises(UserError, match=message):
        show_rows(packed.folder, rows, row)
