"""The documents say what the code has, and lead somewhere."""

import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import get_type_hints

import pytest

import chns
from chns.cli import COMMANDS
from chns.training import settings as training_settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def pages():
    """The module docs/pages.py."""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names_of(kind, name=""):
    hints = get_type_hints(kind, vars(training_settings))
    for field in fields(kind):
        full = f"{name}.{field.name}".lstrip(".")
        if is_dataclass(hints[field.name]) and hints[field.name] is not training_settings.ObjectSettings:
            yield from names_of(hints[field.name], full)
        else:
            yield full


def test_every_setting_has_a_line_with_default_and_meaning(pages):
    page = pages.settings_page()
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", page, re.MULTILINE))
    assert set(rows) == set(names_of(training_settings.TrainSettings))
    assert rows["clusters.hard_ratio"] == "`1.0` | Share of a batch's speakers that is drawn to be alike. *float*"
    assert "One of `random`, `clustered`, `neighbours`, `auto`." in rows["batches.kind"]
    assert all(len(row.partition("|")[2].split()) > 1 for row in rows.values())


def test_every_command_has_its_help(pages):
    page = pages.commands_page()
    assert re.findall(r"^## `chns ([\w-]+)`$", page, re.MULTILINE) == list(COMMANDS)
    assert page.count("usage: chns") == len(COMMANDS)
    assert str(ROOT) not in page
    assert str(Path.home()) not in page


def test_the_reference_has_every_stable_name():
    entries = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference" / "api.md").read_text(), re.MULTILINE)
    assert sorted(entry.rpartition(".")[2] for entry in entries if entry.split(".")[-1] in chns.__all__) == chns.__all__


def test_every_page_is_in_the_navigation_or_linked_from_one_that_is():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    linked = navigation + "".join(map(Path.read_text, [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]))
    assert [path.name for path in DOCS.rglob("*.md") if path.name not in linked] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_from_the_root_lead_somewhere(name):
    links = re.findall(r"\]\((?!https:)([^)#]+)[^)]*\)", (ROOT / name).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


class Loaded(HTMLParser):
    """Collects what a page makes a browser load."""

    def __init__(self):
        super().__init__()
        self.urls = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.urls += [values.get("src")]
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.urls += [values.get("href")]


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("needs chns[docs]")
    for name in ("docs", "src", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    subprocess.run([sys.executable, tmp_path / "docs" / "pages.py"], check=True)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=tmp_path, check=True)
    loaded = Loaded()
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded.feed(page.read_text())
    assert [url for url in loaded.urls if url and re.match(r"(https?:)?//", url)] == []
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text())
