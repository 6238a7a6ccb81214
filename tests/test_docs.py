"""The documentation: it builds without a warning, leaves nothing out, and what it shows runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import pytest
import torch

import doc_blocks
import instsearch
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.main import COMMANDS
from instsearch_cli.options import documented
from instsearch_cli.report.schemas import SCHEMAS, schema
from random_networks import meta, randomised

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SHIPPED = {file.stem for file in (ROOT / "instsearch_cli/report/schemas").glob("*.json")}
NAMES = [page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES]


# -- what runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn photographs, two of them new, a picture to ask with, two indexes, weights of a network, the program."""
    place = tmp_path_factory.mktemp("docs")
    scenes = instsearch.demo(place / "demo", 16).parent
    (place / "new").mkdir()
    shutil.copytree(scenes / "images", place / "photos")
    for name in ("0015.jpg", "0016.jpg"):
        (place / "photos" / name).rename(place / "new" / name)
    shutil.copy2(scenes / "queries" / "03-book.jpg", place / "picture.jpg")
    with instsearch.create(place / "my-index", device="cpu") as index:
        index.index(place / "photos")
    weights = place / "weights" / "squeezenet1_0.pth"
    weights.parent.mkdir()
    torch.save(randomised(meta("squeezenet1_0")).state_dict(), weights)
    with instsearch.create(place / "idx", device="cpu") as index:
        index.extract(place / "photos", extractor="squeezenet1_0", weights=weights)
    (place / "bin").mkdir()
    program = place / "bin" / "instsearch"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m instsearch_cli "$@"\n')
    program.chmod(0o755)
    return place


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_page_run(
    name: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("photos", "new", "demo"):
        shutil.copytree(prepared / folder, tmp_path / folder)
    shutil.copy2(prepared / "picture.jpg", tmp_path / "picture.jpg")
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(prepared / "weights"))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("INSTSEARCH_INDEX", raising=False)
    monkeypatch.setenv("PYTHONPATH", ":".join(str(ROOT / p) for p in (".", "plugins", "formats")))
    page = doc_blocks.Page(DOCS / f"{name}.md", tmp_path, monkeypatch, prepared)
    page.run()
    assert page.executed, "a page has an example that runs"


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("12 hits in 0.3 s", "7 hits\nin 1.25 s", True),
        ("rank ... 0001.jpg", "rank  score\n 1  0.5 0001.jpg\n", True),
        ("0001.jpg", "0002.jpg", False),
        ("12 hits", "12 hits more", False),
    ],
)
def test_output_is_compared_loosely(expected: str, actual: str, same: bool) -> None:
    assert doc_blocks.agrees(expected, actual) is same


# -- what is there ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small arrays on busy processors: threads would wait for each other."""
    torch_threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(torch_threads)
    faiss.omp_set_num_threads(faiss_threads)


@pytest.fixture(scope="session", autouse=True)
def building(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Any]]:
    """Sphinx at work, while examples run; where a test asks for what it builds."""
    out = tmp_path_factory.mktemp("site")
    if not any("site" in item.fixturenames for item in request.session.items):  # type: ignore[attr-defined]
        yield out, None
        return
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-E", "-b", "html"]
    with subprocess.Popen([*command, str(DOCS), str(out)], stderr=subprocess.PIPE, text=True) as sphinx:
        yield out, sphinx
        sphinx.kill()


@pytest.fixture(scope="session")
def site(building: tuple[Path, Any]) -> Path:
    """The built pages: a warning, a broken reference among them, is a failure."""
    out, sphinx = building
    said = sphinx.stderr.read()
    assert sphinx.wait() == 0, said[-4000:]
    return out


def test_nothing_is_fetched_where_pages_are_read(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text()
        )
        assert not loaded, (page.name, loaded)


def test_every_verb_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "cli.html").read_text("utf-8")
    missing = [name for name in COMMANDS if f'id="instsearch-{name}"' not in text]
    assert not missing


def test_every_schema_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "json.html").read_text("utf-8")
    titles = [schema(name)["title"] for names in SCHEMAS.values() for name in names if name in SHIPPED]
    assert len(titles) >= len(COMMANDS) - 1
    assert [title for title in titles if title not in text] == []


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "python.html").read_text("utf-8")
    names = [f"instsearch.{name}" for name in instsearch.__all__]
    names += [f"instsearch.Index.{name}" for name in dir(instsearch.Index) if not name.startswith("_")]
    missing = [name for name in names if f'id="{name}"' not in text]
    assert not missing


def test_every_public_name_has_a_docstring() -> None:
    named = {name: getattr(instsearch, name) for name in instsearch.__all__ if name != "__version__"}
    for cls in ("Answer", "Arrays", "Hit", "Index"):
        members = vars(named[cls]).items()
        named |= {f"{cls}.{name}": value for name, value in members if not name.startswith("_")}
    bare = [name for name, value in named.items() if callable(value) and not (value.__doc__ or "").strip()]
    assert not bare


def test_links_to_files_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


# -- the methods ------------------------------------------------------------------------------------------

ENTRY = re.compile(r"^(`{3,}|:{3,})\{component\} (\S+) (\S+)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def entries() -> list[tuple[str, str, str]]:
    """(kind, name, text) of every component that a page of methods describes."""
    pages = [page.read_text("utf-8") for page in sorted((DOCS / "methods").glob("*.md"))]
    return [(kind, name, text) for page in pages for _, kind, name, text in ENTRY.findall(page)]


def test_every_component_has_its_entry_and_every_entry_is_a_component() -> None:
    described = [(kind, name) for kind, name, _ in entries()]
    offered = {
        (kind, name)
        for kind, offers in load_registry().offers.items()
        for name, offer in offers.items()
        if offer.distribution == "instsearch"
    }
    assert len(described) == len(set(described))
    assert set(described) == offered


def test_every_entry_has_a_formula_or_says_why_it_has_none() -> None:
    for kind, name, text in entries():
        assert "$$" in text or "No formula:" in text, (kind, name)


def test_formulas_are_made_of_what_browsers_know(site: Path) -> None:
    for page in (site / "methods").glob("*.html"):
        assert "<merror" not in page.read_text("utf-8"), page.name


def test_every_option_says_what_it_is() -> None:
    offers = [offer for kind in load_registry().offers.values() for offer in kind.values()]
    classes = {offer.spec.name: offer.load() for offer in offers}
    classes |= {
        f"{offer.spec.name} (training)": offer.load_trainer() for offer in offers if offer.spec.trainer
    }
    bare = [
        (name, option.name) for name, cls in classes.items() for option in documented(cls) if not option.text
    ]
    assert not bare


def test_every_room_is_in_the_architecture() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    rooms = [folder.parent.name for folder in (ROOT / "instsearch_cli").glob("*/__init__.py")]
    assert [room for room in rooms if f"`{room}/`" not in text] == []
