"""Pictures and videos of a run folder, for a page that holds them in itself."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from worldflux.config.files import read_bytes
from worldflux.run_folder.links import check_links
from worldflux.run_folder.names import LEARNING_CURVE, REPORT, VIDEOS

LARGEST = 8 * 2**20  # bytes of a file
# How each kind begins: a name alone says nothing.
KINDS = {
    ".png": ("image/png", (b"\x89PNG\r\n\x1a\n",)),
    ".gif": ("image/gif", (b"GIF87a", b"GIF89a")),
    ".webp": ("image/webp", (b"RIFF",)),
    ".jpg": ("image/jpeg", (b"\xff\xd8\xff",)),
    ".mp4": ("video/mp4", ()),
}
WIDE = (".png",)  # figures with axes; videos stand beside each other


@dataclass(frozen=True)
class Medium:
    """A file. name: within the run folder."""

    name: str
    kind: str
    content: bytes

    def html(self) -> str:
        """An element that holds it."""
        source = f"data:{self.kind};base64,{base64.b64encode(self.content).decode()}"
        name = escape(self.name, quote=True)
        wide = ' class="wide"' if self.name.endswith(WIDE) else ""
        shown = f'<img src="{source}" alt="{name}" loading="lazy">'
        if self.kind.startswith("video/"):
            shown = f'<video src="{source}" controls muted loop playsinline></video>'
        return f"<figure{wide}>{shown}<figcaption>{name}</figcaption></figure>"


def media_of(folder: Path, limit: int) -> tuple[list[Medium], list[str]]:
    """The pictures and videos of a run, up to `limit` bytes, and the names of those beyond it.
    CheckpointError: a link leaves the folder."""
    check_links(folder)
    media, too_large = [], []
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        kind, beginnings = KINDS[path.suffix.lower()]
        try:
            size = path.stat().st_size
            content = read_bytes(path, LARGEST) if size <= min(LARGEST, limit) else None
        except (OSError, ValueError):
            continue  # removed meanwhile
        if content is None:
            too_large.append(name)
            continue
        if content.startswith(beginnings) if beginnings else content[4:8] == b"ftyp":
            media.append(Medium(name, kind, content))
            limit -= len(content)
    return media, too_large


def _files(folder: Path) -> Iterator[Path]:
    """Videos, then pictures; the learning curve is drawn by the page itself."""
    for place in (VIDEOS, REPORT):
        for path in sorted((folder / place).rglob("*")):
            if path.suffix.lower() in KINDS and path != folder / LEARNING_CURVE and path.is_file():
                yield path
