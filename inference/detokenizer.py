"""Token ids to text as they arrive: whole characters only, and nothing that may become a stop string."""

from collections.abc import Sequence

from model.tokenizer import ChatTokenizer

_INCOMPLETE = "\ufffd"  # what a decoder writes for bytes that are not (yet) a character


class Detokenizer:
    """The text of one answer while it grows.

    A byte-level token may end within a character, and a stop string may be spread over several tokens. So two
    things are held back: bytes that are not a whole character yet, and an ending that may be the beginning of
    a stop string. The pieces that `add` and `finish` return join to `text`, which never contains a stop
    string.

    Attributes:
        text: what has been released so far.
        found_stop: a stop string has been completed; the text ends before it.
    """

    def __init__(self, tokenizer: ChatTokenizer, stop: Sequence[str] = ()) -> None:
        self.text = ""
        self.found_stop = False
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._token_ids: list[int] = []
        # Tokens before `_context` are settled. Those from there to `_decoded` have been turned into text, and
        # are
        # decoded again with the next ones: some decoders treat the first word of what they get differently.
        self._context, self._decoded = 0, 0
        self._held = ""  # whole characters that may begin a stop string

    def add(self, token_id: int) -> str:
        """Take the next token; returns the text that has become certain."""
        self._token_ids.append(token_id)
        return self._release(self._new_characters(is_last=False), is_last=False)

    def finish(self) -> str:
        """The answer has ended: returns what was held back (half a character becomes U+FFFD)."""
        return self._release(self._new_characters(is_last=True), is_last=True)

    def _new_characters(self, is_last: bool) -> str:
        before = self._tokenizer.decode(self._token_ids[self._context : self._decoded])
        now = self._tokenizer.decode(self._token_ids[self._context :])
        if now.endswith(_INCOMPLETE) and not is_last:
            return ""
        # UTF-8 synchronises itself: after a whole character, what was decoded before does not change any
        # more.
        self._context, self._decoded = self._decoded, len(self._token_ids)
        return now[len(before) :]

    def _release(self, characters: str, is_last: bool) -> str:
        if self.found_stop:
            return ""
        pending = self._held + characters
        ends = [place for stop in self._stop if (place := pending.find(stop)) >= 0]
        if ends:
            self.found_stop = True
            certain = min(ends)
        else:
            certain = len(pending) if is_last else len(pending) - self._possible_stop(pending)
        self._held = "" if self.found_stop else pending[certain:]
        self.text += pending[:certain]
        return pending[:certain]

    def _possible_stop(self, pending: str) -> int:
        """The length of the longest ending of `pending` with which a stop string begins."""
        longest = min(len(pending), max(map(len, self._stop), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(pending[-length:]) for stop in self._stop):
                return length
        return 0
