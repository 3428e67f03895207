"""Links between the Markdown files of the repository: `python -m tests.support.doc_links` prints the broken ones.

Addresses on the web are not requested. Exit status 1 if a link is broken; run by pre-commit and by the tests.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """Every Markdown file but those of other projects and of runs."""
    left_out = {".venv", ".peers-venv", "node_modules", "runs", "build", ".otoscope"}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(ROOT / path for path in found if not left_out & set(path.parts))


def broken_links() -> Iterator[str]:
    """A sentence for each link to a file, or to a heading of a page, that does not exist."""
    texts = {page: page.read_text() for page in pages()}
    anchors = {page: set(map(_anchor, _HEADING.findall(_CODE.sub("", text)))) for page, text in texts.items()}
    for page, text in texts.items():
        for link, anchor in _LINK.findall(text):
            target = (page.parent / link).resolve() if link else page
            if not target.exists():
                yield f"{page.relative_to(ROOT)} links to {link}, which does not exist"
            elif anchor and target in anchors and anchor not in anchors[target]:
                yield f"{page.relative_to(ROOT)} links to {link}#{anchor}; there is no such heading"


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


if __name__ == "__main__":
    broken = list(broken_links())
    print(*broken, sep="\n", end="\n" if broken else "")
    sys.exit(bool(broken))
