"""A conversation at the terminal: the answer appears as it is written, and may be stopped."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from inference.batch_file import encode_completion, encode_request
from inference.engine import check_prompt, stream
from inference.sampling_params import SamplingParams
from model.chat import encode_prompt
from model.decoder import CausalLM
from model.errors import UserError
from model.loading import AdapterSwitch
from model.tokenizer import ChatTokenizer

HELP = {
    "chat": "Chat. /reset forgets the conversation, /quit or Ctrl-D leaves, Ctrl-C stops an answer.",
    "adapters": "Adapters: {names}; on: {active}. /adapter <name> puts on another one, /adapter none takes it off.",
    "complete": "The model continues what you type. /quit or Ctrl-D leaves, Ctrl-C stops an answer.",
}


class Terminal:
    """Prints answers; in a chat it remembers the turns so far."""

    def __init__(
        self,
        model: CausalLM,
        tokenizer: ChatTokenizer,
        params: SamplingParams,
        *,
        chat: bool,
        system: str | None = None,
        adapters: AdapterSwitch | None = None,
    ) -> None:
        self.model, self.tokenizer, self.params = model, tokenizer, params
        self.adapters = adapters
        self.chat, self.system = chat, system
        self.history: list[dict[str, str]] = []
        self._num_answers = 0  # the answers of one session share a seed, but not their random numbers
        self.reset()

    def reset(self) -> None:
        """Forget the conversation (but the system prompt)."""
        self.history = [{"role": "system", "content": self.system}] if self.system is not None else []

    def answer(self, text: str) -> None:
        """Print the answer to one prompt that stands for itself."""
        self._print(encode_request(self.tokenizer, {"prompt": text}, chat=self.chat, system=self.system))

    def say(self, text: str) -> None:
        """Print the answer to the next message of the conversation, and remember both."""
        if not self.chat:
            self._print(encode_completion(self.tokenizer, text))
            return
        messages = [*self.history, {"role": "user", "content": text}]
        prompt, messages = fit_history(self.tokenizer, messages, self.model.config.max_seq_len, self.params)
        num_dropped = len(self.history) + 1 - len(messages)
        if num_dropped:
            print(f"[the context is full: the {num_dropped} oldest messages are forgotten]", file=sys.stderr)
        answer = self._print(prompt)
        if answer:  # a turn that was stopped before its first word never happened
            self.history = [*messages, {"role": "assistant", "content": answer}]

    def converse(self) -> None:
        """Read and answer until Ctrl-D or /quit; a message that cannot be answered ends in one line."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (it gives `input` arrow keys and a history)
        print(HELP["chat" if self.chat else "complete"])
        self._show_adapters()
        while True:
            try:
                text = input("\n> ")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n(Ctrl-D leaves)")
                continue
            if text.strip() == "/quit":
                return
            if text.strip() == "/reset":
                self.reset()
                print("The conversation starts anew.")
            elif text.strip():
                try:
                    if text.split()[0] == "/adapter":
                        self.switch(" ".join(text.split()[1:]))
                    else:
                        self.say(text)
                except UserError as error:
                    print(f"error: {error}", file=sys.stderr)

    def switch(self, name: str) -> None:
        """Put on the adapter of this name, take it off for "none", and say what is on. The conversation goes on."""
        if self.adapters is None or not list(self.adapters):
            raise UserError("there are no adapters to choose from; pass some with --adapters")
        if name:
            self.adapters.use("" if name == "none" else name)
        self._show_adapters()

    def _show_adapters(self) -> None:
        if self.adapters is not None and list(self.adapters):
            print(HELP["adapters"].format(names=", ".join(self.adapters), active=self.adapters.active or "none"))

    def _print(self, prompt: Sequence[int]) -> str:
        """Print an answer piece by piece; Ctrl-C stops it at a terminal. Returns what was said."""
        said = ""
        try:
            for piece in stream(self.model, self.tokenizer, prompt, self.params, index=self._num_answers):
                print(piece, end="", flush=True)
                said += piece
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print(" [stopped]", end="")
        print()
        self._num_answers += 1
        return said


def fit_history(
    tokenizer: ChatTokenizer,
    messages: Sequence[dict[str, str]],
    max_seq_len: int,
    params: SamplingParams,
) -> tuple[list[int], list[dict[str, str]]]:
    """Encode a conversation; while it leaves the answer too little room, its oldest turns are dropped.

    An answer gets `max_new_tokens`, or a quarter of the context where that is less. The system prompt and the
    last message always stay.

    Returns:
        the prompt's token ids, and the messages in it.

    Raises:
        UserError: when even the last message alone is too long.
    """
    opening = [message for message in messages[:1] if message["role"] == "system"]
    turns = list(messages[len(opening) :])
    room = max_seq_len - min(params.max_new_tokens, max_seq_len // 4)
    prompt = encode_prompt(tokenizer, [*opening, *turns])
    while len(prompt) > room and len(turns) > 1:
        del turns[:2]  # a question without its answer would confuse the model
        prompt = encode_prompt(tokenizer, [*opening, *turns])
    check_prompt(prompt, max_seq_len)
    return prompt, [*opening, *turns]


def read_lines(pipe: BinaryIO) -> Iterator[str]:
    """The lines of standard input that are not blank, as they come; UserError when there are none."""
    is_empty = True
    for number, line in enumerate(pipe, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"standard input:{number}: not UTF-8 text ({error.reason})") from error
        if text.strip():
            is_empty = False
            yield text
    if is_empty:
        raise UserError("standard input: empty; type at a terminal, or pass --prompt or --input")
