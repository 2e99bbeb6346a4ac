"""Blocks of raw rows → token ids: parse, convert, clean, keep exams out, encode, and make keys for duplicates.

Everything here works on one block and knows nothing of the others, so any number of processes gives the same
result (`dataset/building/workers.py` runs them); what needs the whole input (duplicates, the validation split, packing)
happens later, in order.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from dataset.building.report import NUM_SCRIPTS, LeftOut, ReadCounts
from dataset.cleaning import Cleaned, Cleaner, CleaningRules, digest
from dataset.conversations import BadRow, Conversation, to_conversation, to_preference, to_text
from dataset.decontamination import CONTAMINATED, Decontaminator
from dataset.dedup import NearDuplicateSettings, NearKeys
from dataset.reading.formats import Block, Reject, Row, parse_block, sample_of
from dataset.recipes import Recipe
from dataset.rules.characters import FIRST_LETTER, NUM_KINDS, count_kinds, kinds_of
from model.chat import EncodedChat, encode_conversation
from model.errors import UserError
from model.files import canonical_json
from model.tokenizer import ChatTokenizer

TOO_LONG = "longer than a row"
NOTHING_TO_TRAIN = "nothing to train"
LEFT_OUT_BY_RECIPE = "left out by the recipe"
DIGEST_BYTES = 16
_MAX_LABEL_CHARS = 100
_LONG_TEXT = 1 << 18  # characters


@dataclass(frozen=True)
class EncodingSettings:
    """What a worker must know besides the tokenizer."""

    kind: str  # pretrain, sft or dpo
    max_seq_len: int
    text_key: str
    rules: CleaningRules
    labels: Mapping[str, str]  # input → the source its rows belong to, unless a row names its own
    recipe: Recipe | None = None
    decontaminator: Decontaminator | None = None
    near: NearDuplicateSettings | None = None


@dataclass
class NearArrays:
    """What near-duplicates are found by (dataset/dedup.py), of n documents."""

    band_keys: np.ndarray  # [n, bands] uint64
    shingles: np.ndarray  # uint32, end to end
    num_shingles: np.ndarray  # [n] int32


def _empty(shape: tuple[int, ...], dtype: Any) -> Any:
    return field(default_factory=lambda: np.zeros(shape, dtype))


@dataclass
class EncodedBlock:
    """The n documents (conversations, pairs) of neighbouring rows, and what else became of those rows."""

    paths: list[str]  # the inputs that the rows come from
    sources: list[tuple[str, str]] = field(default_factory=list)  # source, and the label of the input
    read: ReadCounts = field(default_factory=ReadCounts)
    rejects: bytes = b""  # every row that was left out, as JSON Lines
    tokens: np.ndarray = _empty((0,), np.uint16)  # of all documents, end to end
    mask: np.ndarray | None = None  # like tokens; None where everything trains
    lengths: np.ndarray = _empty((0, 1), np.int32)  # [n, sides]: a pair has two
    lines: np.ndarray = _empty((0,), np.int64)
    path_of: np.ndarray = _empty((0,), np.int32)  # index into `paths`
    source_of: np.ndarray = _empty((0,), np.int32)  # index into `sources`
    digests: np.ndarray = _empty((0, DIGEST_BYTES), np.uint8)
    letters: np.ndarray = _empty((0, NUM_SCRIPTS), np.int32)
    near: NearArrays | None = None

    @property
    def num_documents(self) -> int:
        return len(self.lines)

    @property
    def num_bytes(self) -> int:
        """What it takes in memory, nearly."""
        near = 0 if self.near is None else sum(array.nbytes for array in vars(self.near).values())
        per_document = self.lines.nbytes + self.digests.nbytes + self.letters.nbytes
        return 3 * self.tokens.nbytes // 2 + per_document + near + len(self.rejects)


def joined(blocks: Sequence[EncodedBlock]) -> EncodedBlock:
    """Several blocks as one, in their order."""
    whole = EncodedBlock(list(dict.fromkeys(path for block in blocks for path in block.paths)))
    path_numbers = {path: number for number, path in enumerate(whole.paths)}
    whole.sources = list(dict.fromkeys(source for block in blocks for source in block.sources))
    source_numbers = {source: number for number, source in enumerate(whole.sources)}
    path_of, source_of = [], []
    for block in blocks:
        sources = np.array([source_numbers[source] for source in block.sources], np.int32)
        paths = np.array([path_numbers[path] for path in block.paths], np.int32)
        whole.read.merge(block.read, sources.tolist())
        source_of.append(sources[block.source_of])
        path_of.append(paths[block.path_of])
    whole.rejects = b"".join(block.rejects for block in blocks)
    whole.source_of, whole.path_of = np.concatenate(source_of), np.concatenate(path_of)
    for name in ("tokens", "lengths", "lines", "digests", "letters"):
        setattr(whole, name, np.concatenate([getattr(block, name) for block in blocks]))
    if blocks[0].mask is not None:
        whole.mask = np.concatenate([block.mask for block in blocks if block.mask is not None])
    near = [block.near for block in blocks if block.near is not None]
    if near:
        columns = ([getattr(each, column.name) for each in near] for column in fields(NearArrays))
        whole.near = NearArrays(*map(np.concatenate, columns))
    return whole


@dataclass
class _Document:
    """A row on its way: what it holds, and where it was found."""

    row: Row
    source: int
    cleaned: Cleaned
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    lengths: tuple[int, ...] = ()


class BlockEncoder:
    """Encodes blocks, one after another, with one tokenizer."""

    def __init__(self, tokenizer: ChatTokenizer, settings: EncodingSettings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self._cleaner = Cleaner(settings.rules)
        self._near_keys = None if settings.near is None else NearKeys(settings.near)
        self._dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
        convert: Mapping[str, Callable[[dict[str, Any]], Conversation]] = {"sft": to_conversation, "dpo": to_preference}
        self._to_conversation = convert.get(settings.kind)

    def __call__(self, block: Block) -> EncodedBlock:
        """Encode one block. UserError: the file was cut."""
        encoded = EncodedBlock([block.path])
        left_out = _Rejects(encoded)
        documents = self._without_held_out(self._read(block, encoded, left_out), left_out)
        if self._to_conversation is None:
            self._encode_texts(documents)
        else:
            documents = self._encode_chats(documents, encoded, left_out)
        left_out.count_tokens(self.tokenizer)
        self._fill(encoded, documents)
        encoded.rejects = left_out.as_json_lines()
        return encoded

    def _read(self, block: Block, encoded: EncodedBlock, left_out: "_Rejects") -> list[_Document]:
        """Parse, convert and clean the rows."""
        documents = []
        input_label = self.settings.labels[block.path]
        numbers: dict[str, int] = {}
        for row in parse_block(block):
            label, found = (input_label, row) if isinstance(row, Reject) else self._converted(row, input_label)
            source = numbers.setdefault(label, len(numbers))
            encoded.read.rows_in[source] += 1
            if isinstance(found, Reject):
                left_out.reject(found, source)
                continue
            assert isinstance(row, Row)
            if found is None:
                left_out.drop(row, source, LEFT_OUT_BY_RECIPE, "")
                continue
            encoded.read.rewritten.update(found.changed)
            if found.failed:
                left_out.drop(row, source, found.failed, found.detail, found.text)
            else:
                documents.append(_Document(row, source, found))
        encoded.sources = [(label, input_label) for label in numbers]
        return documents

    def _converted(self, row: Row, input_label: str) -> tuple[str, Cleaned | Reject | None]:
        """The name of a row's source, and its document after cleaning: None if the recipe leaves it out."""
        recipe, label = self.settings.recipe, input_label
        try:
            value = row.value if recipe is None else recipe.convert(row.value)
            if value is None:
                return label, None
            own = value.get("source")
            label = sample_of(own)[:_MAX_LABEL_CHARS] if isinstance(own, str) and own else label
            if self._to_conversation is None:
                return label, self._cleaner.clean_text(to_text(value, self.settings.text_key))
            return label, self._cleaner.clean_conversation(self._to_conversation(value))
        except BadRow as error:
            return label, _left_out(row, error.reason, error.detail)

    def _without_held_out(self, documents: list[_Document], left_out: "_Rejects") -> list[_Document]:
        decontaminator = self.settings.decontaminator
        if decontaminator is None:
            return documents
        if self._to_conversation is None:
            found = decontaminator.find([document.cleaned.text for document in documents])
        else:
            found = decontaminator.find_conversations([_conversation(document) for document in documents])
        kept = []
        for document, shared in zip(documents, found, strict=True):
            if shared is None:
                kept.append(document)
            else:
                left_out.drop(document.row, document.source, CONTAMINATED, shared.detail, document.cleaned.text)
        return kept

    def _encode_texts(self, documents: list[_Document]) -> None:
        opener, closer = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        assert closer is not None, "checked before the build began"
        opener = closer if opener is None else opener  # some foreign tokenizers have no token that opens
        texts = self.tokenizer.encode_batch([document.cleaned.text for document in documents])
        for document, token_ids in zip(documents, texts, strict=True):
            document.token_ids = [opener, *token_ids, closer]
            document.lengths = (len(document.token_ids),)

    def _encode_chats(self, documents: list[_Document], encoded: EncodedBlock, left_out: "_Rejects") -> list[_Document]:
        kept = []
        for document in documents:
            row, source = document.row, document.source
            try:
                sides = self._sides(_conversation(document))
            except UserError as error:  # what the template says against this conversation
                left_out.reject(_left_out(row, "refused by the chat template", str(error)), source)
                continue
            num_tokens = [len(side.token_ids) for side in sides]
            if max(num_tokens) > self.settings.max_seq_len + 1:
                detail = f"{max(num_tokens)} tokens, a row holds {self.settings.max_seq_len + 1}"
                encoded.read.add_too_long(max(num_tokens) - 1)
                left_out.drop(row, source, TOO_LONG, detail, num_tokens=sum(num_tokens))
            elif not all(any(side.loss_mask[1:]) for side in sides):
                left_out.drop(row, source, NOTHING_TO_TRAIN, "the loss mask is empty", num_tokens=sum(num_tokens))
            else:
                for side in sides:
                    document.token_ids += side.token_ids
                    document.loss_mask += side.loss_mask
                    encoded.read.num_straddling += side.num_straddling
                document.lengths = tuple(num_tokens)
                kept.append(document)
        return kept

    def _sides(self, conversation: Conversation) -> list[EncodedChat]:
        """A conversation encoded; of a preference pair both sides, the answer alone trained."""
        messages, tools = conversation["messages"], conversation.get("tools")
        if "chosen" not in conversation:
            return [encode_conversation(self.tokenizer, messages, tools)]
        sides = []
        for side in ("chosen", "rejected"):
            chat = encode_conversation(self.tokenizer, [*messages, conversation[side]], tools)
            sides.append(EncodedChat(chat.token_ids, last_turn_only(chat.loss_mask), chat.num_straddling))
        return sides

    def _fill(self, encoded: EncodedBlock, documents: list[_Document]) -> None:
        """Put the encoded documents into the block's arrays."""
        texts = [document.cleaned.text for document in documents]
        identities = texts
        if self._to_conversation is not None:
            identities = [canonical_json(document.cleaned.conversation) for document in documents]
            encoded.mask = np.array([trained for document in documents for trained in document.loss_mask], bool)
        encoded.tokens = np.array([token for document in documents for token in document.token_ids], self._dtype)
        num_sides = 2 if self.settings.kind == "dpo" else 1
        encoded.lengths = np.array([document.lengths for document in documents], np.int32).reshape(-1, num_sides)
        encoded.lines = np.array([document.row.line for document in documents], np.int64)
        encoded.source_of = np.array([document.source for document in documents], np.int32)
        encoded.path_of = np.zeros(len(documents), np.int32)
        digests = b"".join(map(digest, identities))
        encoded.digests = np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES)
        encoded.letters = count_letters(texts)
        if self._near_keys is not None:
            encoded.near = NearArrays(*self._near_keys(texts))


class _Rejects:
    """The rows that a block leaves out: counted, and each as a line of JSON."""

    def __init__(self, encoded: EncodedBlock) -> None:
        self._counts = encoded.read
        self._lines: list[bytes] = []
        self._texts: list[tuple[str, str, int]] = []  # whose tokens are still to be counted: text, reason, source

    def reject(self, reject: Reject, source: int) -> None:
        """A bad row."""
        self._add(self._counts.rejected, reject, source, 0)

    def drop(self, row: Row, source: int, reason: str, detail: str, text: str = "", num_tokens: int = 0) -> None:
        """A good row that a rule leaves out; its tokens, or its text that they are counted in later."""
        self._add(self._counts.dropped, _left_out(row, reason, detail), source, num_tokens)
        if text:
            self._texts.append((text, reason, source))

    def _add(self, group: LeftOut, reject: Reject, source: int, num_tokens: int) -> None:
        reject = replace(reject, detail=reject.detail.encode("utf-8", errors="replace").decode("utf-8"))
        group.add(reject, source, num_tokens)
        self._lines.append(reject_line(reject))

    def count_tokens(self, tokenizer: ChatTokenizer) -> None:
        """What the dropped texts would have given."""
        texts = tokenizer.encode_batch([text for text, _, _ in self._texts])
        for token_ids, (_, reason, source) in zip(texts, self._texts, strict=True):
            self._counts.dropped.tokens[reason, source] += len(token_ids)
        self._texts.clear()

    def as_json_lines(self) -> bytes:
        return b"".join(self._lines)


def reject_line(reject: Reject) -> bytes:
    """A row of rejects.jsonl."""
    values = {name: getattr(reject, name) for name in Reject.__slots__}
    return json.dumps(values, ensure_ascii=False).encode("utf-8") + b"\n"


def last_turn_only(mask: list[bool]) -> list[bool]:
    """A loss mask of which only the last run of True is left.

    Preference pairs compare two answers; the earlier turns are part of the question, equal on both sides.
    """
    end = len(mask) - mask[::-1].index(True) if True in mask else 0
    start = end
    while start and mask[start - 1]:
        start -= 1
    return [start <= i < end for i in range(len(mask))]


def count_letters(texts: Sequence[str]) -> np.ndarray:
    """How many letters of each script each text has: int32 [texts, NUM_SCRIPTS]."""
    counts = np.zeros((len(texts), NUM_KINDS), np.int64)
    lengths = np.array([len(text) for text in texts], np.int64)
    short = np.flatnonzero(lengths <= _LONG_TEXT)  # all at once, which is much quicker than one by one
    for part in np.array_split(short, lengths[short].sum() // _LONG_TEXT + 1):
        kinds = kinds_of("".join([texts[number] for number in part]))
        text_of = np.repeat(np.arange(len(part)), lengths[part])
        found = np.bincount(text_of * NUM_KINDS + kinds, minlength=len(part) * NUM_KINDS)
        counts[part] = found.reshape(-1, NUM_KINDS)
    for number in np.flatnonzero(lengths > _LONG_TEXT):
        counts[number] = count_kinds(texts[int(number)])
    return counts[:, FIRST_LETTER:].astype(np.int32)


def _conversation(document: _Document) -> Conversation:
    assert document.cleaned.conversation is not None
    return document.cleaned.conversation


def _left_out(row: Row, reason: str, detail: str) -> Reject:
    return Reject(row.path, row.line, reason, detail, sample_of(json.dumps(row.value, ensure_ascii=False, default=str)))
