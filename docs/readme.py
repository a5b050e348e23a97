"""Brings the generated parts of README.md up to date: ``python docs/readme.py`` (``--check`` only compares).

The tree takes its lines from the modules' own docstrings, the quickstart's table from its committed report.
"""

from __future__ import annotations

import ast
import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 128

#: What is not a Python module, or a folder whose files need no line of their own.
OTHERS = {
    "search_spaces/*.yaml": "what is searched in each method, with the source of each range",
    "study/presets/*.yaml": "ready study files: quickstart, own-photos, stable-diffusion",
    "trainables/embedded/weights/": "the embedded model: generator, clip, image_encoder, judge (standard folders)",
    "tests/": "mirrors the packages; test_architecture.py holds the import rules",
    "reports/quickstart/": "the report of `make quickstart`",
    "docs/": "concepts, architecture, adding a method, an example of one run",
    "cluster.yaml": "a GPU cluster for `ray up`",
    "deploy/": "the image, a KubeRay RayJob, a Slurm script, commands for bare machines",
    "constraints.txt": "every installed version",
    "Makefile": "setup, quickstart, test, lint, types",
}


def first_sentence(path: Path) -> str:
    """Returns the first sentence of a module's docstring, cut to fit a line."""
    text = " ".join(
        (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split()
    )
    return re.split(r"(?<=[^.])\.(?:\s|$)", text)[0].replace("``", "`")


def tree() -> str:
    """Returns the tree: one line a module."""
    listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=True, cwd=ROOT)
    files = [name for name in listed.stdout.split() if not name.startswith(("tests/", "docs/"))]
    lines = []
    folder = ""
    for name in sorted(files, key=lambda name: (Path(name).parent.as_posix(), name)):
        path = Path(name)
        if path.parent.as_posix() != folder:
            folder = path.parent.as_posix()
            about = (
                first_sentence(ROOT / folder / "__init__.py")
                if (ROOT / folder / "__init__.py").exists()
                else ""
            )
            lines.append(
                _line(f"{folder}/", about or "commands that measure, each against a peer or a limit")
            )
        if path.name != "__init__.py":
            lines.append(_line(f"  {path.name}", first_sentence(ROOT / name)))
    lines += [_line(name, about) for name, about in OTHERS.items()]
    return "```text\n" + "\n".join(lines) + "\n```"


def _line(name: str, about: str) -> str:
    line = f"{name:<28} {about}".rstrip()
    return line if len(line) <= WIDTH else line[: WIDTH - 3].rsplit(" ", 1)[0].rstrip(",;:") + " ..."


def quickstart() -> str:
    """Returns figure and table of the committed quickstart report."""
    folder = "reports/quickstart"
    with (ROOT / folder / "tables" / "arms.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {
        "quality": "quality",
        "subject_fidelity": "subject fidelity",
        "prompt_fidelity": "prompt fidelity",
        "train_seconds": "training (s)",
    }
    lines = [f"| arm | n | {' | '.join(names.values())} |", f"|---|--:|{'--:|' * len(names)}"]
    lines += [
        f"| {row['arm']} | {row['n']} | {' | '.join(_cell(row, name) for name in names)} |" for row in rows
    ]
    return "\n".join(
        [
            f"![Quality against training cost]({folder}/figures/pareto-quality-cost.png)",
            "",
            *lines,
            "",
            "Means over confirm runs with 95 % bootstrap intervals. Two subjects and two seeds make them wide, and the",
            f"report says so. The whole report: [{folder}/report.md]({folder}/report.md).",
        ]
    )


def _cell(row: dict[str, str], name: str) -> str:
    if not row.get(name):
        return "--"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    text = f"{float(row[name]):.3g}"
    return f"{text} [{float(low):.3g}, {float(high):.3g}]" if low and high else text


PARTS: dict[str, Callable[[], str]] = {"quickstart": quickstart, "tree": tree}


def updated(text: str) -> str:
    """Returns README.md's text with each generated part replaced."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    """Writes README.md, or with ``--check`` says whether it is up to date."""
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = updated(old)
    if "--check" in sys.argv[1:]:
        if new != old:
            print("README.md is out of date; run: python docs/readme.py", file=sys.stderr)
        return int(new != old)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
