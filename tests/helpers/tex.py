"""LaTeX of the machine that tests run on."""

from __future__ import annotations

import subprocess
from pathlib import Path


def compiled(folder: Path, engine: str, options: str, *files: str, preamble: str = "") -> str:
    """Compiles an article that puts in some files; returns its log."""
    body = "\n".join(rf"\input{{{name}}}" for name in files)
    head = rf"\documentclass[10pt,{options}]{{article}}\usepackage{{booktabs}}{preamble}"
    (folder / "article.tex").write_text(f"{head}\n\\begin{{document}}\nText.\n{body}\n\\end{{document}}\n")
    done = subprocess.run(
        [engine, "-interaction=nonstopmode", "-halt-on-error", "article.tex"],
        cwd=folder, capture_output=True, text=True, errors="replace", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout
