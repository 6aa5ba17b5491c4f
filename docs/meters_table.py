"""Write the tables of meters in README.md and docs/meters.md anew: ``python docs/meters_table.py``.

Everything between the two marks of a file is replaced; what stands there by hand is lost.
"""

from itertools import groupby
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
METERS = ROOT / "configs" / "meters"
BEGIN, END = "<!-- meters: begin -->\n", "<!-- meters: end -->\n"

Template = dict[str, object]


def templates() -> dict[str, Template]:
    """Return every template by its name, sorted."""
    return {
        path.relative_to(METERS).with_suffix("").as_posix(): yaml.safe_load(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(METERS.rglob("*.yaml"))
    }


def short() -> str:
    """Return the table of the README: one row per maker."""
    lines = ["| maker | templates (✓ verified) |", "|---|---|"]
    for maker, group in groupby(templates().items(), lambda item: item[0].split("/")[0]):
        found = list(group)
        names = (f"`{maker}/{n.split('/')[1]}`" + (" ✓" if t["verified"] else "") for n, t in found)
        lines.append(f"| {found[0][1]['maker']} | {' · '.join(names)} |")
    return "\n".join(lines) + "\n"


def full() -> str:
    """Return the table of docs/meters.md: one row per template."""
    lines = [
        "| template | model | protocol | tags | values | verified |",
        "|---|---|---|---|---|---|",
    ]
    for name, t in templates().items():
        tags = t["tags"]
        count = len(tags) if isinstance(tags, dict) else 0
        verified = "yes" if t["verified"] else "not yet"
        model = f"{t['maker']} {t['model']}"
        lines.append(
            f"| `{name}` | {model} | {t['protocol']} | {count} | {t['values']} | {verified} |"
        )
    return "\n".join(lines) + "\n"


PAGES = {ROOT / "README.md": short, ROOT / "docs" / "meters.md": full}


def written(page: Path) -> str:
    """Return what stands between the marks of a page; ``ValueError`` without marks."""
    text = page.read_text(encoding="utf-8")
    begin = text.index(BEGIN) + len(BEGIN)
    return text[begin : text.index(END, begin)]


def main() -> None:
    """Replace both tables."""
    for page, table in PAGES.items():
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(BEGIN + written(page), BEGIN + table()), encoding="utf-8")


if __name__ == "__main__":
    main()
