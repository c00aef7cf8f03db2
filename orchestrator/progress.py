"""Progress of something that counts images: a bar in a terminal, a line now and then elsewhere."""

import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0
RECENT_UPDATES = 30


class ImageProgress:
    """Context manager; call :meth:`update` with the count so far."""

    def __init__(self, console: Console, what: str, total: int, start: int = 0) -> None:
        self._console = console
        self._what, self._total, self._done = what, total, start
        self._last_line = time.monotonic()
        # (time, images) of recent updates: the rate leaves out what came before the first of them, such as starting up.
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_UPDATES)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task(what, total=total, completed=start, note="")

    def __enter__(self) -> "ImageProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """``done`` images in all; ``note`` is shown behind the rate."""
        if done == self._done:
            return
        self._done = done
        now = time.monotonic()
        self._recent.append((now, done))
        then, done_then = self._recent[0]
        rate = (done - done_then) / (now - then) if now > then else 0.0
        text = ", ".join(part for part in (f"{rate:.1f} images/s" if rate else "", note) if part)
        if self._bar:
            self._bar.update(self._task, completed=done, note=text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or done >= self._total:
            self._last_line = now
            parts = [f"{self._what} {done}/{self._total} images ({done / self._total:.0%})", text]
            if rate:
                left = int((self._total - done) / rate)
                parts.append(f"{left // 60}:{left % 60:02d} left")
            self._console.print(", ".join(part for part in parts if part), highlight=False)
