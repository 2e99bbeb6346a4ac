"""Conversations to token ids, by the tokenizer's chat template, with a mask of what the model learns to say.

The danger in chat data is a text that *looks* like control: who types `<|im_end|>` must not end the turn. So:

1. wherever a control token's text begins in a string of the conversation, one private-use character (the
   breaker) is put behind its first character, and it is that token's text no more;
2. the template renders the conversation; control tokens that stand whole in the result are its own;
3. the text is cut there, the breakers are taken out, and every stretch between two control tokens is
   encoded once, as plain text.

For contents without such texts the ids are those of transformers' `apply_chat_template(tokenize=True)`. Two
exceptions, both in foreign tokenizers: added tokens marked `single_word`, and those sought in normalised
text, are found here wherever the template writes their exact text.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from model.errors import UserError
from model.tokenizer import ChatTokenizer, Message, Span

_PRIVATE_USE_AREA = range(0xE000, 0xF900)
_WHITE_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class EncodedChat:
    """A conversation as token ids; `loss_mask` is True on the tokens that the model is trained to write.

    `num_straddling` counts the tokens that begin before an assistant's text and end in it. The model never
    writes these whole, so they are not trained.
    """

    token_ids: list[int]
    loss_mask: list[bool]
    num_straddling: int


@dataclass(frozen=True)
class _Rendered:
    """A rendered conversation without sentinels: its text, control tokens in order, and trained spans."""

    text: str
    control_tokens: list[tuple[int, int, str]]  # start, end, text
    trained_spans: list[Span]


def encode_conversation(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
) -> EncodedChat:
    """Encode a whole conversation; every assistant turn is trained, its stop token included.

    The trained spans are the template's `{% generation %}` marks. Where a template has none, the assistant's
    contents and the stop token right behind each are trained (its tool calls and reasoning are not).

    Raises UserError when a content is not text or the template refuses the conversation.
    """
    return _encode(tokenizer, _render(tokenizer, messages, tools, add_generation_prompt=False))


def encode_prompt(
    tokenizer: ChatTokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
) -> list[int]:
    """Encode a conversation up to where the assistant answers; UserError as in `encode_conversation`."""
    return _encode(tokenizer, _render(tokenizer, messages, tools, add_generation_prompt=True)).token_ids


# ---- rendering ----


def _render(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
) -> _Rendered:
    chat = _checked(messages)
    mark_contents = not (tokenizer.has_generation_marks or add_generation_prompt)
    everything = "\n".join(_strings([chat, tools]))
    must_break = any(character in everything for character in tokenizer.control_beginnings)
    if not must_break and not mark_contents:
        # The usual case: nothing in the conversation can be mistaken for a control token.
        text, spans = tokenizer.render(chat, tools, add_generation_prompt)
        return _Rendered(text, _control_tokens(tokenizer, text), spans)

    breaker, start_mark, end_mark = _unused_characters(everything + (tokenizer.chat_template or ""), 3)
    if must_break:
        chat = _map_strings(chat, lambda text: _break_control_texts(tokenizer, text, breaker))
        tools = _map_strings(tools, lambda text: _break_control_texts(tokenizer, text, breaker))
    if mark_contents:
        chat = [_mark_content(message, start_mark, end_mark) for message in chat]
    text, spans = tokenizer.render(chat, tools, add_generation_prompt)
    control_tokens = _control_tokens(tokenizer, text)
    if mark_contents:
        spans = [m.span() for m in re.finditer(f"{start_mark}.*?{end_mark}", text, re.DOTALL)]
    clean_text, clean_position = _remove_sentinels(text, breaker, start_mark, end_mark)
    rendered = _Rendered(
        clean_text,
        [(clean_position(start), clean_position(end), token) for start, end, token in control_tokens],
        [(clean_position(start), clean_position(end)) for start, end in spans],
    )
    return _widened_spans(tokenizer, rendered) if mark_contents else rendered


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages, whose contents must be text, without empty keys (a template would print `None`)."""
    if not messages:
        raise UserError("a conversation needs at least one message")
    chat = []
    for number, message in enumerate(messages, start=1):
        message = {key: value for key, value in message.items() if value is not None}
        if not isinstance(message.get("role"), str):
            raise UserError(f"message {number}: has no `role`; expected system, user, assistant or tool")
        content = message.get("content", "")
        if not isinstance(content, str):
            found = type(content).__name__
            raise UserError(f"message {number} ({message['role']}): `content` must be text, found {found}")
        chat.append(message)
    return chat


def _control_tokens(tokenizer: ChatTokenizer, text: str) -> list[tuple[int, int, str]]:
    return [(*match.span(), match.group()) for match in tokenizer.control_pattern.finditer(text)]


def _widened_spans(tokenizer: ChatTokenizer, rendered: _Rendered) -> _Rendered:
    """Spans of contents, widened to what the model has to write around each of them.

    In front, white space that the prompt lacks (Llama 2's ends in `[/INST]`, and ` Paris` is one token).
    Behind, the stop token and white space before it, so that the model learns to stop.
    """
    stop_starts = {
        start: end
        for start, end, token in rendered.control_tokens
        if tokenizer.control_tokens[token] in tokenizer.stop_token_ids
    }
    spans = []
    for start, end in rendered.trained_spans:
        lead_start = max(0, start - tokenizer.num_lead_spaces)
        begin = lead_start if rendered.text[lead_start:start].isspace() else start
        spans.append((begin, stop_starts.get(_skip_space(rendered.text, end), end)))
    return _Rendered(rendered.text, rendered.control_tokens, spans)


def _skip_space(text: str, position: int) -> int:
    match = _WHITE_SPACE.match(text, position)
    return match.end() if match else position


# ---- sentinels ----


def _strings(value: Any) -> Iterator[str]:
    """Every string inside lists and dictionaries, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """The same value with every string inside it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_strings(key, change): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value


def _unused_characters(text: str, count: int) -> list[str]:
    """Private-use characters that do not occur in the text, nor their digits (see `_remove_sentinels`)."""
    lowered = text.lower()
    unused: list[str] = []
    for code in _PRIVATE_USE_AREA:
        if chr(code) not in text and f"{code:04x}" not in lowered:
            unused.append(chr(code))
            if len(unused) == count:
                return unused
    raise UserError("all of Unicode's private-use characters occur in this conversation: none is left to mark it")


def _break_control_texts(tokenizer: ChatTokenizer, text: str, breaker: str) -> str:
    """The text with a breaker behind the first character of every control token's text, overlaps included."""
    starts, match = set(), tokenizer.control_pattern.search(text)
    while match:
        starts.add(match.start())
        match = tokenizer.control_pattern.search(text, match.start() + 1)
    # A text may also end in the first part of a control token, and the next text begin with the rest.
    prefixes = tokenizer.control_prefixes
    longest = max(map(len, prefixes), default=0)
    starts |= {start for start in range(max(0, len(text) - longest), len(text)) if text[start:] in prefixes}
    pieces, done = [], 0
    for start in sorted(starts):
        pieces += [text[done : start + 1], breaker]
        done = start + 1
    return "".join([*pieces, text[done:]])


def _mark_content(message: dict[str, Any], start_mark: str, end_mark: str) -> dict[str, Any]:
    """Marks around an assistant's content, inside its outer white space, which a template may trim."""
    content = message.get("content", "")
    inner = content.strip()
    if message["role"] != "assistant" or not inner:
        return message
    before = content[: len(content) - len(content.lstrip())]
    after = content[len(content.rstrip()) :]
    return {**message, "content": f"{before}{start_mark}{inner}{end_mark}{after}"}


def _remove_sentinels(text: str, *sentinels: str) -> tuple[str, Callable[[int], int]]:
    """The text without the sentinels, and a function from positions in it before to positions after."""
    # A template that prints a dictionary, or JSON in ASCII, writes our characters as \ue000.
    pattern = re.compile("|".join(f"{s}|\\\\u{ord(s):04x}" for s in sentinels), re.IGNORECASE)
    removed = [match.span() for match in pattern.finditer(text)]
    starts = [start for start, _ in removed]
    lengths = [0, *accumulate(end - start for start, end in removed)]
    return pattern.sub("", text), lambda position: position - lengths[bisect_left(starts, position)]


# ---- encoding ----


def _encode(tokenizer: ChatTokenizer, rendered: _Rendered) -> EncodedChat:
    """Each control token becomes its id, each stretch between two of them is encoded once as plain text."""
    token_ids: list[int] = []
    loss_mask: list[bool] = []
    num_straddling = 0
    spans = rendered.trained_spans

    def add_stretch(start: int, end: int) -> None:
        nonlocal num_straddling
        if start >= end:
            return
        encoding = tokenizer.encode_plain(rendered.text[start:end], after_special=start > 0)
        token_ids.extend(encoding.ids)
        trained = [False] * len(encoding.ids)
        for span_start, span_end in [(s - start, e - start) for s, e in spans if s < end and e > start]:
            # Offsets count characters. The tokens of one character's bytes all carry that character's
            # offsets, so they fall on the same side of a span's edge.
            for index, (token_start, token_end) in enumerate(encoding.offsets):
                if span_start <= token_start < span_end:
                    trained[index] = True
                elif token_start < span_start < token_end:
                    num_straddling += 1
        loss_mask.extend(trained)

    position = 0
    for start, end, token in rendered.control_tokens:
        stretch_end = start
        if token in tokenizer.strips_left:
            stretch_end = position + len(rendered.text[position:start].rstrip())
        add_stretch(position, stretch_end)
        token_ids.append(tokenizer.control_tokens[token])
        loss_mask.append(any(s <= start and end <= e for s, e in spans))
        position = end
        if token in tokenizer.strips_right:
            position = _skip_space(rendered.text, end)
    add_stretch(position, len(rendered.text))
    return EncodedChat(token_ids, loss_mask, num_straddling)


# ---- foreign templates ----

_PROBE = [
    {"role": "user", "content": "First  question:\n\n- a\tb"},
    {"role": "assistant", "content": "First <b>Answer</b>,\n  in **two** lines"},
    {"role": "user", "content": "Zweite Frage? 第二个问题"},
    {"role": "assistant", "content": "The last answer."},
]


def template_warnings(tokenizer: ChatTokenizer) -> list[str]:
    """What a user should know before training with this tokenizer's chat template, in plain words.

    Raises UserError when there is no template, or one that refuses a plain conversation.
    """
    warnings = []
    text, _ = tokenizer.render(_PROBE)
    if not tokenizer.control_pattern.search(text):
        warnings.append("the chat template writes no special tokens: typed text can imitate the turns of a chat")
    if any(message["content"] not in text for message in _PROBE):
        warnings.append("the chat template rewrites contents: what is trained is not what the data says")
    if not _is_blind_to_contents(tokenizer):
        warnings.append(
            "the chat template looks for control texts (like </think>) inside contents; here they stay plain "
            "text, so for such contents the result differs from apply_chat_template"
        )
    answer_end = text.rfind(_PROBE[-1]["content"]) + len(_PROBE[-1]["content"])
    stop = tokenizer.control_pattern.match(text[answer_end:].lstrip())
    if not stop or tokenizer.control_tokens[stop.group()] not in tokenizer.stop_token_ids:
        warnings.append("no stop token follows the last answer: the model does not learn to stop there")
    if not _prompts_as_trained(tokenizer):
        warnings.append(
            "with add_generation_prompt the chat template writes something else than what stands before an answer in "
            "training: the model will be asked to begin where it has not learned to"
        )
    if not tokenizer.has_generation_marks:
        warnings.append(
            "the chat template has no {% generation %} marks: the assistant's contents and stop tokens are "
            "trained, its reasoning and tool calls are not"
        )
    if "strftime_now" in (tokenizer.chat_template or ""):
        warnings.append("the chat template writes today's date: the same data gives other ids on another day")
    system = {"role": "system", "content": "Be brief."}
    try:
        text, _ = tokenizer.render([system, *_PROBE])
    except UserError as error:
        warnings.append(f"no system messages: {error}")
    else:
        if system["content"] not in text:
            warnings.append("the chat template leaves out system messages")
    return warnings


def _prompts_as_trained(tokenizer: ChatTokenizer) -> bool:
    """Whether a prompt ends where the trained part of a conversation begins."""
    whole = _render(tokenizer, _PROBE[:2], None, add_generation_prompt=False)
    try:
        prompt, _ = tokenizer.render(_PROBE[:1], add_generation_prompt=True)
    except UserError:
        return False
    # It may end further on: a prompt may give an answer's first word, or open its reasoning.
    return whole.text.startswith(prompt) and all(len(prompt) >= start for start, _ in whole.trained_spans[:1])


def _is_blind_to_contents(tokenizer: ChatTokenizer) -> bool:
    """Whether control texts in contents are written like other text (Qwen3's template cuts at </think>)."""
    template = tokenizer.chat_template or ""
    for token in tokenizer.control_tokens:
        if token not in template:
            continue
        chat = [{**m, "content": f"{m['content']} {token} {m['content']}"} for m in _PROBE]
        (breaker,) = _unused_characters("\n".join(_strings(chat)) + template, 1)
        broken = [{**m, "content": _break_control_texts(tokenizer, m["content"], breaker)} for m in chat]
        if tokenizer.render(chat)[0] != tokenizer.render(broken)[0].replace(breaker, ""):
            return False
    return True
