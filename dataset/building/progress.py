"""Progress bars: how far, how fast in rows, and how long it will take. Only a terminal shows them."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tqdm import tqdm


class BytesBar:
    """Reading inputs: time left goes by bytes where all sizes are known; the rate is in rows."""

    def __init__(self, name: str, sizes: Sequence[int | None], bytes_done: int) -> None:
        """`bytes_done`: what an earlier run has read already."""
        total = None if None in sizes else sum(size or 0 for size in sizes)
        self._bar = tqdm(
            desc=name, total=total, initial=bytes_done, unit="B", unit_scale=True, disable=None, leave=False
        )
        self._started, self._num_rows = time.monotonic(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, bytes_done: int, num_rows: int) -> None:
        """So many bytes of the inputs are done in all; `num_rows` more rows."""
        self._num_rows += num_rows
        rate = self._num_rows / max(time.monotonic() - self._started, 1e-9)
        self._bar.set_postfix_str(f"{self._num_rows:,} rows, {rate:,.0f} rows/s", refresh=False)
        self._bar.update(max(bytes_done - self._bar.n, 0))


def documents_bar(name: str, action: str, num_documents: int | None) -> tqdm:
    """Going through documents: what is done to the documents of the set `name`."""
    return tqdm(desc=f"{name}: {action}", total=num_documents, unit=" rows", unit_scale=True, disable=None, leave=False)
