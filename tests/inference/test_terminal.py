"""The conversation at the terminal: what is remembered, what is dropped, what a mistake costs."""

import builtins
from typing import Any

import pytest
import torch

from inference.sampling_params import SamplingParams
from inference.terminal import Terminal, fit_history
from model.chat import encode_prompt
from model.errors import UserError
from tests.tiny_model import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SYSTEM = {"role": "system", "content": "s"}


def turns(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(contents)]


@pytest.fixture
def said(monkeypatch):
    """The model's next answers; what it was asked is collected as token ids."""
    answers, prompts = ["one", "two", "three", "four"], []

    def stream(model, tokenizer, prompt, params, index):
        prompts.append((prompt, index))
        yield from answers[index]

    monkeypatch.setattr("inference.terminal.stream", stream)
    return prompts


def terminal(**changes: Any) -> Terminal:
    settings: dict[str, Any] = {"chat": True, "system": "s", **changes}
    return Terminal(tiny_model(dtype=torch.float32), TOKENIZER, SamplingParams(), **settings)


def test_a_chat_remembers_its_turns_until_reset(said, capsys):
    talk = terminal()
    talk.say("a")
    talk.say("b")
    assert talk.history == [SYSTEM, *turns("a", "one", "b", "two")]
    talk.reset()
    talk.say("c")
    expected = [
        (encode_prompt(TOKENIZER, [SYSTEM, *turns("a")]), 0),
        (encode_prompt(TOKENIZER, [SYSTEM, *turns("a", "one", "b")]), 1),
        (encode_prompt(TOKENIZER, [SYSTEM, *turns("c")]), 2),
    ]
    assert said == expected
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_completion_and_a_lone_prompt_remember_nothing(said):
    talk = terminal(chat=False, system=None)
    talk.say("a")
    talk.say("b")
    assert said == [([0, *TOKENIZER.encode(text)], index) for index, text in enumerate("ab")]
    talk = terminal()
    talk.answer("c")
    assert said[-1] == (encode_prompt(TOKENIZER, [SYSTEM, *turns("c")]), 0)
    assert talk.history == [SYSTEM]


def test_old_turns_are_dropped_with_a_warning(said, capsys):
    talk = terminal()
    talk.history += turns("x" * 40, "y" * 40)
    talk.say("z" * 20)
    assert "the 2 oldest messages are forgotten" in capsys.readouterr().err
    assert talk.history == [SYSTEM, *turns("z" * 20, "one")]


@pytest.mark.parametrize("max_new_tokens", [16, 1000])
def test_history_keeps_the_newest_turns_that_fit(max_new_tokens):
    messages = [SYSTEM, *turns("a" * 30, "b", "c" * 30, "d", "e")]
    settings = SamplingParams(max_new_tokens=max_new_tokens)
    for max_seq_len in range(60, 140, 7):
        prompt, kept = fit_history(TOKENIZER, messages, max_seq_len, settings)
        assert prompt == encode_prompt(TOKENIZER, kept)
        assert kept[0] == SYSTEM
        assert kept[1:] in (messages[1:], messages[3:], messages[5:])
        room = max_seq_len - min(max_new_tokens, max_seq_len // 4)
        assert len(prompt) <= room or len(kept) == 2
        one_more = [SYSTEM, *messages[len(messages) - len(kept) - 1 :]]
        assert kept == messages or len(encode_prompt(TOKENIZER, one_more)) > room


def test_a_message_that_cannot_fit_is_refused(said):
    talk = terminal()
    talk.say("a")
    before = list(talk.history)
    with pytest.raises(UserError, match="context holds 128"):
        talk.say("z" * 500)
    assert talk.history == before


def test_a_stopped_answer_is_remembered_as_far_as_it_went(monkeypatch, capsys):
    def stream(*_, index):
        if index == 0:
            yield "half"
        raise KeyboardInterrupt

    monkeypatch.setattr("inference.terminal.stream", stream)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    talk = terminal(system=None)
    talk.say("a")
    talk.say("b")
    assert talk.history == turns("a", "half")
    assert capsys.readouterr().out == "half [stopped]\n [stopped]\n"


def test_an_adapter_is_put_on_and_taken_off_in_the_chat(said, monkeypatch, capsys):
    """The conversation goes on; a name that is not there costs nothing."""

    class Switch:
        active = "law"

        def __iter__(self):
            return iter(("law", "poems"))

        def use(self, name):
            if name not in ("", *self):
                raise UserError(f"no adapter is called {name!r}")
            self.active = name

    typed = iter(["a", "/adapter", "/adapter poems", "/adapter jokes", "b", "/adapter none", "/quit"])
    monkeypatch.setattr(builtins, "input", lambda _: next(typed))
    talk = terminal(system=None, adapters=Switch())
    talk.converse()
    output = capsys.readouterr()
    assert [line.split("; on: ")[1].split(".")[0] for line in output.out.splitlines() if "; on: " in line] == [
        *("law", "law", "poems", "none")
    ]
    assert "Adapters: law, poems;" in output.out
    assert output.err == "error: no adapter is called 'jokes'\n"
    assert talk.history == turns("a", "one", "b", "two")


def test_without_adapters_there_is_nothing_to_put_on(said, monkeypatch, capsys):
    typed = iter(["/adapter law", "/quit"])
    monkeypatch.setattr(builtins, "input", lambda _: next(typed))
    terminal(system=None).converse()
    assert capsys.readouterr().err == "error: there are no adapters to choose from; pass some with --adapters\n"


def test_a_session_survives_mistakes_and_ends_with_ctrl_d(said, monkeypatch, capsys):
    typed = iter(["a", "", "z" * 500, KeyboardInterrupt(), "/reset", "b", EOFError()])

    def fake_input(_):
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", fake_input)
    talk = terminal(system=None)
    talk.converse()
    output = capsys.readouterr()
    assert "one" in output.out
    assert "starts anew" in output.out
    assert output.err.startswith("error: the prompt has")
    assert talk.history == turns("b", "two")
    monkeypatch.setattr(builtins, "input", lambda _: "/quit")
    talk.converse()
