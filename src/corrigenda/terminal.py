"""What reaches a terminal: all text goes through here, and nothing in it can command the terminal.

Subjects, file names, column headers and the messages of errors come from whoever may write to a queue or a
store. A terminal would obey what they hide in them: fill the clipboard (OSC 52), clear the screen, hang an
address behind a word (OSC 8), write from right to left. `protect` lays a guard under stdout and stderr, so
that no command has to think of it; `console` is the way past it for our own colours and bars.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# C0 but tab and line end, DEL, C1; what changes direction or line; invisible tags; lone surrogates.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
# What libraries that fetch models write for their bars: back to the line's beginning, or some lines up.
_BAR = re.compile("\r(?!\r)|\n*(?:\x1b\\[A)+$")


def neutral(text: str) -> str:
    """`text` with every character that commands a terminal spelled out, as JSON spells it.

    >>> neutral("Ada\\x1b[2J")
    'Ada\\\\u001b[2J'

    JSON stays the same JSON: such characters stand in its strings only, where this is another spelling.
    """
    return _COMMANDS.sub(_spelled, text)


def protect() -> None:
    """Guard stdout and stderr of this process. Doing it twice is doing it once."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Guard):
            setattr(sys, name, Guard(stream, bars=name == "stderr"))


def console(*, stderr: bool = False, **options: Any) -> Console:
    """A rich console whose texts are neutral and whose own colours reach the terminal."""
    from rich.console import Console

    class Neutral(Console):
        """Strings in tables, too, come by `render_str`."""

        def render_str(self, text: str, **how: Any) -> Any:
            return super().render_str(neutral(text), **how)

    return Neutral(file=_unguarded(sys.stderr if stderr else sys.stdout), **options)


def for_programs() -> TextIO:
    """Stdout for CSV and pages: as it is where a program or a file takes it, guarded where a person looks."""
    out = sys.stdout
    return out if out.isatty() or _unguarded(out).isatty() else _unguarded(out)


class Guard:
    """A text stream that makes neutral what is written to the one below it.

    To libraries that colour by themselves it is no terminal: their escapes would be spelled out.
    """

    def __init__(self, below: TextIO, *, bars: bool = False) -> None:
        self.below, self._bars = below, bars

    def write(self, text: str) -> int:
        bar = _BAR.match(text) if self._bars else None
        free = bar.group() if bar else ""
        self.below.write(free + neutral(text[len(free) :]))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


def watched(*, stderr: bool = True) -> bool:
    """Whether a person is looking at the stream."""
    return _unguarded(sys.stderr if stderr else sys.stdout).isatty()


def _unguarded(stream: TextIO) -> TextIO:
    return stream.below if isinstance(stream, Guard) else stream


def _spelled(found: re.Match[str]) -> str:
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
