"""The documents: what they show runs, prints what they say, and links to what exists.

In README.md and docs/: a ```python block whose docstring begins with a file's name is that file, another is run; in a
```console block, lines that begin with "$ " are run, and what follows one, if anything, is its output.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [ROOT / "README.md", ROOT / "docs/adding-a-policy.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = ("make",)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def trainmaster(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return python(["-m", "trainmaster.cli.main", *arguments], folder)


def python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "100"}  # as wide as the output that is shown
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """(command, the output shown)"""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def without_margins(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@pytest.mark.parametrize("document", WITH_CODE, ids=relative)
def test_what_a_document_shows_runs_and_prints_what_it_says(document, tmp_path):
    (tmp_path / "path/to").mkdir(parents=True)
    for language, block in BLOCK.findall(document.read_text(encoding="utf-8")):
        if language == "python" and (name := re.match(r'"""(\w+\.py): ', block)):
            (tmp_path / name[1]).write_text(block)
            (tmp_path / "path/to" / name[1]).write_text(block)
            if name[1].startswith("test_"):
                done = python(["-m", "pytest", "-q", name[1]], tmp_path)
                assert done.returncode == 0, done.stdout
        elif language == "python":
            done = python(["-c", block], tmp_path)
            assert done.returncode == 0, done.stderr
        elif language == "console":
            for command, shown in commands(block):
                program, *arguments = shlex.split(command)
                if program in NOT_RUN:
                    continue
                assert Path(program).name == "trainmaster"
                done = trainmaster(arguments, tmp_path)
                assert done.returncode == 0, done.stderr
                if shown:
                    assert without_margins(done.stdout + done.stderr) == without_margins(shown)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith("http")]

    assert [target for target in targets if not exists(document, target)] == []


def exists(document: Path, target: str) -> bool:
    path, _, heading = target.partition("#")
    file = document.parent / path if path else document
    return file.exists() and (not heading or heading in anchors(file))


def anchors(file: Path) -> set[str]:
    """As the forges make them of headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_table_of_policies_is_true(tmp_path):
    policies = json.loads(trainmaster(["policies", "--json"], tmp_path).stdout)
    rows = [["policy", "paper", "preempts", "needs", "presets"], ["---"] * 5]
    for p in policies:
        presets = ", ".join(f"`{name}`" for name in p["presets"])
        rows.append([f"`{p['name']}`", p["paper"], "yes" if p["preemptive"] else "", ", ".join(p["needs"]), presets])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)

    shown = re.search(r"<!-- policies.*?-->\n(.*?)\n?<!-- end of policies -->", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)

    assert shown is not None and shown[1] == table, f"the table should be\n{table}"


def test_the_first_sentence_of_the_readme_says_what_it_is():
    paragraph = (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n")[1]

    assert "simulator" in paragraph.partition(". ")[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_no_document_names_a_private_path(document):
    assert not re.search(r"/work/|/root/|/home/|/tmp/", document.read_text(encoding="utf-8"))
