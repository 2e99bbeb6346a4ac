"""Text to token ids and back: one tokenizer for every stage, read from an ordinary Hugging Face folder.

The folder holds `tokenizer.json` (vocabulary and merges), `tokenizer_config.json` (which token opens, closes
and pads) and `chat_template.jinja`. It is used through the `tokenizers` library, so a data worker never loads
torch, and the files travel as text inside every packed set and checkpoint.
"""

import json
import re
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from tokenizers import Encoding, Tokenizer

from model.errors import UserError
from model.files import atomic_folder, canonical_json, sha256_of_text

# The ids are a contract: checkpoints, packed sets and exported models rely on them. The reserved ones are for
# control tokens of tomorrow, so that a new one need not widen a trained model.
SPECIAL_TOKENS: tuple[str, ...] = (
    "<|endoftext|>",
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    *(f"<|reserved_{number}|>" for number in range(10, 64)),
)
# Whose turn it is, as the chat template writes it.
ROLES: tuple[str, ...] = ("system", "user", "assistant", "tool")
CHAT_TEMPLATE_PATH = Path(__file__).with_name("chat_template.jinja")

_REQUIRED_FILES = ("tokenizer.json", "tokenizer_config.json")
_REQUIRED_TEXT = " and ".join(_REQUIRED_FILES)
_OPTIONAL_FILES = ("chat_template.jinja", "special_tokens_map.json")
# The named tokens that transformers hands to a chat template as variables.
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PROBE_ANSWER = "Seedling asks the template where an answer stands"
_PROBE_TURN = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE_ANSWER}]
_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")

# What a template can end in that is not ours: its own words, and what Python says to its expressions.
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)

# transformers keeps one compiled template for the whole process, which notes the generation spans in itself:
# two threads must not render at the same time.
_RENDER_LOCK = threading.Lock()

Message = Mapping[str, Any]
Span = tuple[int, int]


class ChatTokenizer:
    """A tokenizer with its chat template. Typed text never becomes a control token: only the template does.

    Attributes:
        files: name → text of the folder's files; all that is needed to build this object again.
        special_tokens: every added token's text → id.
        control_tokens: those of them that typed text may not become: all but runs of white space and single
            characters, which some foreign tokenizers add as ordinary vocabulary.
        vocab_size: the number of ids: the highest id + 1.
    """

    def __init__(self, files: Mapping[str, str], origin: str = "tokenizer") -> None:
        """Build from the text of the files; UserError names `origin` when they are no tokenizer's."""
        self.files = dict(files)
        self._definition = _parse_json(files, "tokenizer.json", origin)
        self._config = _parse_json(files, "tokenizer_config.json", origin)
        if not isinstance(self._definition.get("model"), dict):
            raise UserError(f"{origin}/tokenizer.json: has no `model`; expected a Hugging Face tokenizer")
        added_tokens = self._definition.get("added_tokens") or []
        self._full = _build(self._definition, origin)
        self.special_tokens: dict[str, int] = {token["content"]: token["id"] for token in added_tokens}
        self.control_tokens = {text: i for text, i in self.special_tokens.items() if len(text.strip()) > 1}
        # transformers lets these swallow the white space beside them (Phi-3's do), so we must too.
        self.strips_left = frozenset(token["content"] for token in added_tokens if token.get("lstrip"))
        self.strips_right = frozenset(token["content"] for token in added_tokens if token.get("rstrip"))
        self.vocab_size = max(self._full.get_vocab(with_added_tokens=True).values()) + 1
        self._plain, self._plain_inside = self._build_plain(origin)

        named = _named_tokens(files, self._config, origin)
        self._template_variables = named
        self.bos_token_id = self._id_of(named.get("bos_token"))
        self.eos_token_id = self._id_of(named.get("eos_token"))
        self.pad_token_id = self._id_of(named.get("pad_token"))
        self.chat_template = _chat_template(files, self._config)
        self.has_generation_marks = bool(self.chat_template and _GENERATION_MARK.search(self.chat_template))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Read a tokenizer folder, ours or a foreign one; UserError says what is missing or broken."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such tokenizer folder; make one with `python train_tokenizer.py`")
        files = {}
        for name in (*_REQUIRED_FILES, *_OPTIONAL_FILES):
            path = folder / name
            if not path.is_file():
                if name in _REQUIRED_FILES:
                    raise UserError(f"{path}: missing; a tokenizer folder needs {_REQUIRED_TEXT}")
                continue
            try:
                files[name] = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
        return cls(files, origin=str(folder))

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Self:
        """Build from the text of the files, as a packed set or a checkpoint stores them."""
        return cls(files)

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, str]]]:
        # Worker processes receive the text and build their own: the library's objects need not be pickled.
        return type(self), (self.files,)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the files into a folder that does not exist yet (or is replaced)."""
        with atomic_folder(folder, overwrite=overwrite) as temporary:
            for name, text in self.files.items():
                (temporary / name).write_bytes(text.encode("utf-8"))

    # ---- text ----

    def encode(self, text: str) -> list[int]:
        """The ids of plain text, without any special token, whatever the text says."""
        return self.encode_plain(text).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores that the `tokenizers` library finds."""
        try:
            encodings = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:  # one of them is no text
            for text in texts:
                _refuse_surrogates(text)
            raise
        return [encoding.ids for encoding in encodings]

    def encode_plain(self, text: str, after_special: bool = False) -> Encoding:
        """Plain text to ids with character offsets; `after_special` when it follows a special token."""
        tokenizer = self._plain_inside if after_special else self._plain
        try:
            return tokenizer.encode(text, add_special_tokens=False)
        except TypeError:  # the library's word for a text that is not Unicode
            _refuse_surrogates(text)
            raise

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of the ids; bytes that are not whole characters become U+FFFD."""
        return self._full.decode([int(token) for token in token_ids], skip_special_tokens=skip_special_tokens)

    def entry_name(self, token_id: int) -> str:
        """How tokenizer.json spells the entry of an id (byte-level: one character a byte)."""
        name = self._full.id_to_token(token_id)
        assert name is not None, f"no entry has the id {token_id}"
        return name

    # ---- identity ----

    @cached_property
    def vocabulary_hash(self) -> str:
        """A sha256 over everything that decides which ids a text gets."""
        parts = ("model", "normalizer", "pre_tokenizer", "added_tokens")
        return sha256_of_text(canonical_json({part: self._definition.get(part) for part in parts}))

    @cached_property
    def template_hash(self) -> str:
        """A sha256 over the chat template's text (over nothing, when there is none)."""
        return sha256_of_text(self.chat_template or "")

    def with_tokens(self, tokens: Sequence[str]) -> Self:
        """A wider tokenizer: control tokens are added behind the vocabulary, and every id of this one stays.

        Like all control tokens they are written by the chat template alone: typed text never becomes one.
        UserError: one of them is there already, or cannot be a control token.
        """
        definition = {**self._definition, "added_tokens": list(self._definition.get("added_tokens") or [])}
        config = {**self._config, "added_tokens_decoder": dict(self._config.get("added_tokens_decoder") or {})}
        for number, token in enumerate(dict.fromkeys(tokens), start=self.vocab_size):
            if len(token) < 2 or len(token.split()) != 1:
                raise UserError(f"--add_tokens {token!r}: expected at least two characters and no white space")
            if self._full.token_to_id(token) is not None:
                raise UserError(f"--add_tokens {token!r}: the vocabulary has it already; leave it out")
            properties = {"content": token, "lstrip": False, "normalized": False, "rstrip": False}
            properties |= {"single_word": False, "special": True}
            definition["added_tokens"].append({"id": number, **properties})
            config["added_tokens_decoder"][str(number)] = properties
        files = {"tokenizer.json": _json_text(definition), "tokenizer_config.json": _json_text(config)}
        return type(self)({**self.files, **files})

    def with_chat_template(self, template: str) -> Self:
        """The same vocabulary with another chat template, wherever a reader of the folder looks for it.

        UserError: it is no Jinja template, or does not write a question and its answer.
        """
        config = {**self._config, "chat_template": template}  # several named templates give way to this one
        files = {"tokenizer_config.json": _json_text(config), "chat_template.jinja": template}
        changed = type(self)({**self.files, **files})
        if changed.chat_template is None:
            raise UserError("the chat template is empty")
        try:
            text, _ = changed.render(_PROBE_TURN)
        except UserError as error:
            if isinstance(error.__cause__, TemplateSyntaxError):
                found = error.__cause__
                raise UserError(f"not a Jinja template: line {found.lineno}: {found.message}") from error
            raise
        if _PROBE_ANSWER not in text:
            raise UserError("the chat template does not write what the assistant says")
        return changed

    def extends(self, other: "ChatTokenizer") -> bool:
        """Whether this is `other`, perhaps with tokens added behind: then every id of `other` means the same here."""
        mine, others = self._as_read, other._as_read
        ours, theirs = mine["added_tokens"], others["added_tokens"]
        same = all(mine[part] == others[part] for part in ("model", "normalizer", "pre_tokenizer"))
        added = ours[len(theirs) :]
        return same and ours[: len(theirs)] == theirs and all(token["id"] >= other.vocab_size for token in added)

    @cached_property
    def _as_read(self) -> dict[str, Any]:
        """The definition as the library writes it today: its versions have spelled one and the same differently."""
        return json.loads(self._full.to_str())

    # ---- conversations ----

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The ids that end an answer: end of text, and what the template puts after an assistant's turn."""
        stops = {self.eos_token_id, self._turn_end_id()}
        return tuple(sorted(token for token in stops if token is not None))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> tuple[str, list[Span]]:
        """A conversation as the template writes it, and the character spans of its generation marks, if any.

        Raises UserError when there is no template, or with what the template has against the conversation.
        """
        if self.chat_template is None:
            raise UserError("this tokenizer has no chat template: add a chat_template.jinja to its folder")
        # Here, because transformers takes most of a second to load, and plain text does without it.
        from transformers.utils.chat_template_utils import render_jinja_template

        with_spans = self.has_generation_marks and not add_generation_prompt
        variables: dict[str, Any] = self._template_variables
        try:
            with _RENDER_LOCK:
                rendered: Any = render_jinja_template(
                    conversations=[[dict(message) for message in messages]],
                    tools=None if tools is None else [dict(tool) for tool in tools],
                    chat_template=self.chat_template,
                    add_generation_prompt=add_generation_prompt,
                    return_assistant_tokens_mask=with_spans,
                    **variables,
                )
        except _TEMPLATE_ERRORS as error:
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise UserError(f"the chat template refuses this conversation ({roles}): {error}") from error
        (text,), spans = rendered  # one conversation in, one out
        return text, spans[0] if with_spans else []

    @cached_property
    def num_lead_spaces(self) -> int:
        """How many white-space characters the template writes between the generation prompt and an answer."""
        try:
            prompt, _ = self.render(_PROBE_TURN[:1], add_generation_prompt=True)
            text, _ = self.render(_PROBE_TURN)
        except UserError:
            return 0  # `template_warnings` reports it
        lead = text.partition(_PROBE_ANSWER)[0].removeprefix(prompt)
        return len(lead) if lead.isspace() else 0

    def _turn_end_id(self) -> int | None:
        try:
            text, _ = self.render(_PROBE_TURN * 2)
        except UserError:
            return None  # no template, or one that cannot do this: `template_warnings` reports it
        # After the last turn; after the first, for templates that end a turn only by opening the next one.
        for rest in reversed(text.split(_PROBE_ANSWER)[1:]):
            match = self.control_pattern.match(rest.lstrip())
            if match:
                return self.control_tokens[match.group()]
        return None

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any control token; the longest one where several begin, as in the `tokenizers` library."""
        texts = sorted(self.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")

    @cached_property
    def control_prefixes(self) -> frozenset[str]:
        """Every proper beginning of a control token's text."""
        return frozenset(token[:end] for token in self.control_tokens for end in range(1, len(token)))

    @cached_property
    def control_beginnings(self) -> frozenset[str]:
        """The first characters of the control tokens: a text without them can imitate none."""
        return frozenset(token[0] for token in self.control_tokens)

    # ---- building ----

    def _build_plain(self, origin: str) -> tuple[Tokenizer, Tokenizer]:
        """Copies that know no control token: for the start of a text, and for text after a control token."""
        plain = _without_tokens(self._definition, self.control_tokens)
        first = _build(plain, origin)
        # Some foreign tokenizers (Mistral, Llama 2) put a space before a text's very first word only.
        pre_tokenizer = json.dumps(plain.get("pre_tokenizer"))
        inside = pre_tokenizer.replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
        if inside == pre_tokenizer:
            return first, first
        return first, _build({**plain, "pre_tokenizer": json.loads(inside)}, origin)

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._full.token_to_id(token)


def seedling_files(tokenizer_json: str, max_seq_len: int) -> dict[str, str]:
    """The files of a tokenizer folder of ours, around a trained `tokenizer.json`."""
    template = CHAT_TEMPLATE_PATH.read_text(encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[1],
        "add_prefix_space": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_seq_len,
        "added_tokens_decoder": {
            str(number): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for number, token in enumerate(SPECIAL_TOKENS)
        },
        # Older readers look here, newer ones in chat_template.jinja; both hold the same text.
        "chat_template": template,
    }
    return {
        "tokenizer.json": tokenizer_json,
        "tokenizer_config.json": _json_text(config),
        "chat_template.jinja": template,
    }


def _json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start + 1} of the text is a lone surrogate ({text[error.start]!a}), "
            "which is not Unicode text: repair or remove it"
        ) from error


def _parse_json(files: Mapping[str, str], name: str, origin: str) -> dict[str, Any]:
    if name not in files:
        raise UserError(f"{origin}/{name}: missing; a tokenizer needs {_REQUIRED_TEXT}")
    try:
        value = json.loads(files[name])
    except json.JSONDecodeError as error:
        raise UserError(f"{origin}/{name}: not a JSON file ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{origin}/{name}: expected a JSON object, found {type(value).__name__}")
    return value


def _build(definition: Mapping[str, Any], origin: str) -> Tokenizer:
    try:
        # Training settings that a foreign file may carry: they would cut and fill our texts.
        return Tokenizer.from_str(json.dumps({**definition, "truncation": None, "padding": None}))
    except Exception as error:  # the library raises nothing more specific
        raise UserError(f"{origin}/tokenizer.json: not a tokenizer that can be read ({error})") from error


def _without_tokens(definition: Mapping[str, Any], tokens: Iterable[str]) -> dict[str, Any]:
    """The same tokenizer, ids and all, in which the given tokens have names that nobody can type.

    Renamed rather than deleted: ids are positions, and every one must stay where it is.
    """
    names = {token: uuid.uuid4().hex for token in tokens}
    model = dict(definition["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): token_id for text, token_id in vocabulary.items()}
    else:  # Unigram: [text, log probability] in the order of the ids
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if "merges" in model:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [p for p in pairs if not {p[0], p[1], p[0] + p[1]} & names.keys()]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = definition.get("added_tokens") or []
    added = [{**token, "content": names.get(token["content"], token["content"])} for token in added]
    # A post-processor adds special tokens and shifts offsets; plain text wants neither.
    return {**definition, "model": model, "added_tokens": added, "post_processor": None}


def _named_tokens(files: Mapping[str, str], config: Mapping[str, Any], origin: str) -> dict[str, str]:
    """bos_token, eos_token … → text, from the configuration or, in older folders, special_tokens_map.json."""
    name_of_map = "special_tokens_map.json"
    older = _parse_json(files, name_of_map, origin) if name_of_map in files else {}
    named = {}
    for name in _NAMED_TOKENS:
        token = config.get(name) or older.get(name)
        if isinstance(token, dict):  # a token written with its properties
            token = token.get("content")
        if token:
            named[name] = token
    return named


def _chat_template(files: Mapping[str, str], config: Mapping[str, Any]) -> str | None:
    template = files.get("chat_template.jinja") or config.get("chat_template")
    if isinstance(template, list):  # several named templates, as some older folders have
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template or None
