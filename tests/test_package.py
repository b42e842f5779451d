"""What the package says of itself: its name, licence, citation and extras agree wherever they stand."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import decode
from decode.machine import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WRITTEN = [
    *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "decode").rglob("*.py"),
    *(ROOT / "scripts").glob("*.py"), *(ROOT / "configs").rglob("*.yaml"), ROOT / "pyproject.toml",
]  # fmt: skip


def test_nothing_advises_to_install_the_other_project_of_that_name() -> None:
    assert PROJECT["name"] == DISTRIBUTION != "decode"
    assert PROJECT["scripts"] == {"decode": "decode.cli:main"}
    for file in WRITTEN:
        asked = re.findall(r"(?<![\w./-])decode\[[a-z]", file.read_text())
        asked += re.findall(r"pip install [\"']?decode\b(?!-brain)", file.read_text())
        assert not asked, file


def test_every_extra_that_is_advised_exists() -> None:
    named = rf"(?:{DISTRIBUTION}|{{DISTRIBUTION}})\[([\w,]+)\]"
    advised = {
        e for f in WRITTEN for found in re.findall(named, f.read_text()) for e in found.split(",")
    }
    assert {"slurm", "fetch", "imagenet", "lpips", "meteor"} <= advised
    assert advised <= set(PROJECT["optional-dependencies"])


def test_citation_has_the_keys_of_its_format_and_agrees_with_the_package() -> None:
    """Citation File Format 1.2.0: https://doi.org/10.5281/zenodo.5171937"""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    known = {
        "cff-version",
        "message",
        "type",
        "title",
        "abstract",
        "authors",
        "version",
        "license",
        "keywords",
    }
    assert {"cff-version", "message", "title", "authors"} <= set(cited) <= known
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["version"] == PROJECT["version"] == decode.__version__
    assert cited["license"] == PROJECT["license"] == "BSD-3-Clause"
    assert cited["authors"] == PROJECT["authors"]


def test_licence_and_types_are_shipped() -> None:
    assert (ROOT / "decode" / "py.typed").is_file()
    words = " ".join((ROOT / "LICENSE").read_text().split())
    assert words.startswith("BSD 3-Clause License Copyright (c) 2026, the decode developers")
    clauses = (
        "1. Redistributions of source",
        "2. Redistributions in binary",
        "3. Neither the name",
    )
    assert all(clause in words for clause in clauses)


def test_the_changes_of_this_version_say_what_was_removed() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    (section,) = re.findall(rf"(?ms)^## {re.escape(PROJECT['version'])}\b.*?(?=^## |\Z)", text)
    for word in ("Added", "Changed", "Removed"):
        assert re.search(rf"(?m)^### {word}\n\n- ", section), word


def test_each_commit_is_checked_by_what_the_check_script_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    script = (ROOT / "scripts/check.sh").read_text()
    (every,) = re.findall(r"set -- ([a-z ]+)\n", script)
    assert set(every.split()) == set(re.findall(r"(?m)^([a-z]+)\(\) ", script))
    asked = [hook["entry"] for repo in hooks for hook in repo["hooks"]]
    assert sorted(asked) == sorted(f"scripts/check.sh {check}" for check in every.split())


def test_every_page_has_its_place_on_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    nav = re.findall(r"(?m)^ +- [^:]+: (\w+\.md)$", site[site.index("\nnav:") :])
    assert sorted(nav) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))
