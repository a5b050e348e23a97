"""Brings what is generated in README.md and docs/modules.md up to date: ``python docs/readme.py``.

Tree and modules take their lines from the modules' own docstrings, the quickstart's table from its committed report.
With ``--check`` it only compares.
"""

from __future__ import annotations

import ast
import csv
import math
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRESETS = sorted((ROOT / "study" / "presets").glob("*.yaml"))
COMMANDS = "commands that measure, each against a peer or a limit"  # a folder that is no package

#: What is not a Python module, or a folder whose files need no line of their own.
SHIPPED = sorted(path.parent.name for path in (ROOT / "reports").glob("*/report.md"))
OTHERS = {
    "search_spaces/*.yaml": "what is searched in each method, with the source of each range",
    "study/presets/*.yaml": "ready study files: " + ", ".join(path.stem for path in PRESETS),
    "trainables/embedded/weights/": "the embedded model: generator, clip, image_encoder, judge (standard folders)",
    "tests/": "mirrors the packages; field/, faults/, servers/, security/ and deploy/ test the whole",
    "reports/": f"the shipped reports of {', '.join(SHIPPED)}; yours go to storage/reports/",
    "docs/": "the design of a comparison, studies, clusters, servers, storage, reliability, scale, architecture",
    "cluster.yaml": "a GPU cluster for `ray up`",
    "deploy/": "the image, a KubeRay RayJob, a Slurm script, commands for bare machines",
    "constraints.txt": "every installed version",
    "Makefile": "setup, quickstart, test, test-all, test-quantized, lint, types, check",
}


def first_sentence(path: Path) -> str:
    """Returns the first sentence of a module's docstring."""
    text = " ".join(
        (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split()
    )
    return re.split(r"(?<!et al)(?<=[^.])\.(?:\s|$)", text)[0].replace("``", "`")


def folders() -> dict[str, list[str]]:
    """Returns the modules of each folder, tests and documents apart."""
    listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, list[str]] = {}
    for name in sorted(listed.stdout.split()):
        if not name.startswith(("tests/", "docs/")):
            found.setdefault(Path(name).parent.as_posix(), []).append(Path(name).name)
    return dict(sorted(found.items()))


def about_folder(folder: str) -> str:
    """Returns what a folder is, in a sentence."""
    begin = ROOT / folder / "__init__.py"
    return first_sentence(begin) if begin.exists() else COMMANDS


def tree() -> str:
    """Returns the tree: one line a folder."""
    lines = [(f"{folder}/", about_folder(folder)) for folder in folders()] + list(OTHERS.items())
    width = max(len(name) for name, _ in lines)
    return "```text\n" + "\n".join(f"{name:<{width}}  {about}" for name, about in lines) + "\n```"


def modules() -> str:
    """Returns the page with a line for each module."""
    parts = ["# Every module in a sentence\n\nMade from the modules' own words by `python docs/readme.py`.\n"]
    for folder, names in folders().items():
        parts.append(f"\n## {folder}/\n\n{about_folder(folder)}.\n\n| module | what it is |\n|---|---|\n")
        for name in names:
            if name != "__init__.py":
                about = first_sentence(ROOT / folder / name).replace("|", "\\|")
                parts.append(f"| [{name}](../{folder}/{name}) | {about} |\n")
    return "".join(parts)


def quickstart() -> str:
    """Returns figure and table of the committed quickstart report."""
    return _report("reports/quickstart", "pareto-quality-cost", "Quality against training cost")


def verdict(study: str) -> str:
    """Returns headline, figure and table of the committed report of a study that asks for a verdict."""
    folder = f"reports/{study}"
    (headline,) = re.findall(
        r"^\*\*.+\*\*$", (ROOT / folder / "report.md").read_text(encoding="utf-8"), re.M
    )[:1]
    return f"> {headline}\n\n" + _report(folder, "intervals", "Quality of each arm with its interval")


def claims() -> str:
    """Returns the claims of published comparisons with the verdicts of the committed reports."""
    lines = ["| claim | source | verdict | found | report |", "|---|---|---|--:|---|"]
    folders = sorted((ROOT / "reports").glob("*/tables/hypotheses.csv"))
    for path in folders:
        study = path.parts[-3]
        stated = {row["name"]: row["source"] for row in _rows(path.with_name("hypothesis-details.csv"))}
        stated_now = next((_sources(preset) for preset in PRESETS if preset.stem == study), {})
        sources = stated_now | {name: source for name, source in stated.items() if source}
        lines += [
            f"| {_plain(row['claim'])} | {_plain(sources.get(row['name'], ''))} | {_plain(row['ruling'])} | "
            f"{_found(row)} | [{study}](reports/{study}/report.md) |"
            for row in _rows(path)
        ]
    without = sorted(
        {path.stem for path in PRESETS if _states_hypotheses(path)} - {path.parts[-3] for path in folders}
    )
    told = f"Presets that state hypotheses and have no report here: {', '.join(without)}."
    return "\n".join([*(lines if folders else []), *([""] if folders else []), *([told] if without else [])])


def _sources(preset: Path) -> dict[str, str]:
    """The sources of a preset's claims, some of which were added to those that the report of an earlier run has."""
    text = preset.read_text(encoding="utf-8")
    return dict(re.findall(r"^  ([\w-]+):\n    claim: .*\n    source: (.*)$", text, re.M))


def _states_hypotheses(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return all(re.search(line, text, re.M) for line in (r"^hypotheses:", r"^model: embedded"))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _found(row: dict[str, str]) -> str:
    """A value with its interval, in two digits of the interval's width, or three of its own."""
    value, low, high = (row.get(name, "") for name in ("estimate", "estimate_low", "estimate_high"))
    if not value:
        return "--"
    if not (low and high and low != high):
        return f"{float(value):,.0f}" if abs(float(value)) >= 1000 else f"{float(value):.3g}"
    half = (float(high) - float(low)) / 2
    decimals = max(0, 1 - math.floor(math.log10(half)))
    shown = (f"{float(text):,.{decimals}f}" for text in (value, low, high))
    return "{} [{}, {}]".format(*shown)


def _report(folder: str, figure: str, about: str) -> str:
    """Returns a figure and the table of a committed report."""
    with (ROOT / folder / "tables" / "arms.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Title, divisor and decimals of each column.
    names = {
        "quality": ("quality", 1, 2),
        "subject_fidelity_scaled": ("subject", 1, 2),
        "prompt_fidelity_scaled": ("prompt", 1, 2),
        "class_kept": ("class kept", 1, 2),
        "failed_images": ("failed images", 1, 2),
    }
    if "total_seconds" in rows[0]:
        names |= {
            "total_seconds": ("training with class images (s)", 1, 1),
            "total_flops": ("(TFLOP)", 1e12, 2),
        }
    else:  # no arm draws any
        names |= {"train_seconds": ("training (s)", 1, 1), "train_flops": ("(TFLOP)", 1e12, 2)}
    titles = [title for title, _, _ in names.values()]
    lines = [f"| arm | n | {' | '.join(titles)} |", f"|---|--:|{'--:|' * len(names)}"]
    lines += [
        f"| {row['arm']} | {row['n']} | {' | '.join(_cell(row, name, *how[1:]) for name, how in names.items())} |"
        for row in rows
    ]
    return "\n".join(
        [
            f"![{about}]({folder}/figures/{figure}.png)",
            "",
            *lines,
            "",
            *_about(any(row.get("quality_low") for row in rows)),
            f"The whole report: [{folder}/report.md]({folder}/report.md).",
        ]
    )


def _about(intervals: bool) -> list[str]:
    """Returns what the numbers of a table can say."""
    if intervals:
        return ["Means over subjects with Student's 95 % intervals, confirm runs only."]
    return [
        "Means over subjects, confirm runs only. There are no intervals: fewer than three subjects say nothing of",
        "others. This study shows the machinery and decides no pair of arms.",
    ]


def _cell(row: dict[str, str], name: str, divisor: float, decimals: int) -> str:
    if not row.get(name):
        return "--"
    value, low, high = (
        f"{float(found) / divisor + 0.0:.{decimals}f}".replace("-0.00", "0.00")
        if (found := row.get(column))
        else ""
        for column in (name, f"{name}_low", f"{name}_high")
    )
    return f"{value} [{low}, {high}]" if low and high else value


PARTS: dict[str, Callable[[], str]] = {
    "quickstart": quickstart,
    "main-study": partial(verdict, "lora-vs-dreambooth"),
    "methods": partial(verdict, "methods"),
    "adapters": partial(verdict, "adapters"),
    "claims": claims,
    "tree": tree,
}


def updated(text: str) -> str:
    """Returns README.md's text with each generated part replaced."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{make()}\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    """Writes the files, or with ``--check`` says which are out of date."""
    readme = ROOT / "README.md"
    wanted = {readme: updated(readme.read_text(encoding="utf-8")), ROOT / "docs" / "modules.md": modules()}
    outdated = [
        path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in sys.argv[1:]:
        for path in outdated:
            print(f"{path.name} is out of date; run: python docs/readme.py", file=sys.stderr)
        return int(bool(outdated))
    for path in outdated:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
