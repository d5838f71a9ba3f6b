"""What a person sees while a model reads: tokens so far and the time left, on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

EVERY = 10.0  # seconds from line to line


class Silent:
    """Shows nothing; what the others are."""

    def __init__(self, title: str = "", total: int = 0, unit: str = "token") -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, 0

    def __enter__(self) -> Silent:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def advance(self, more: int) -> None:
        """Count some more."""
        self.done += more


class Lines(Silent):
    """A line every ten seconds, for files and for terminals without tqdm."""

    def __enter__(self) -> Lines:
        """Begin."""
        self.began = self.said = time.perf_counter()
        return self

    def advance(self, more: int) -> None:
        """Count some more."""
        super().advance(more)
        now = time.perf_counter()
        if now - self.said >= EVERY and self.done < self.total:
            self.said = now
            left = _duration((now - self.began) / self.done * (self.total - self.done))
            print(
                f"{self.title}: {self.done:,} of {self.total:,} {self.unit}s, {left} left", file=sys.stderr, flush=True
            )


class Bar(Silent):
    """tqdm's bar."""

    def __init__(self, title: str, total: int, unit: str, tqdm: Any) -> None:
        super().__init__(title, total, unit)
        self.tqdm = tqdm

    def __enter__(self) -> Bar:
        """Draw it."""
        self.bar = self.tqdm(
            total=self.total, desc=self.title, unit=self.unit, unit_scale=True, dynamic_ncols=True, leave=False
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it away: a line of a table follows."""
        self.bar.close()

    def advance(self, more: int) -> None:
        """Count some more."""
        super().advance(more)
        self.bar.update(more)


def show_progress(title: str, total: int, unit: str = "token") -> Silent:
    """The best display that is there: a bar on a terminal where tqdm is installed, else lines."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            return Bar(title, total, unit, tqdm)
    return Lines(title, total, unit)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
