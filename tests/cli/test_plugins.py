"""Plugins: real entry points from checked-in fake distributions; broken ones cost a warning."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from instsearch_cli import hookimpl
from instsearch_cli.engine.registry import HOOKS, Offer, PluginWarning, Registry, load_registry
from instsearch_cli.errors import InstsearchError, UsageError
from instsearch_cli.specs import EncoderSpec, WeighterSpec

FAKES = Path(__file__).parent / "fake_plugins"


@pytest.fixture
def _fresh_registry():
    load_registry.cache_clear()
    yield
    load_registry.cache_clear()


@pytest.mark.usefixtures("_fresh_registry")
@pytest.mark.parametrize(
    ("fake", "message"),
    [
        ("broken-import", "no_such_module"),
        ("broken-hook", "RuntimeError"),
        ("misspelt", "instsearch_encodrs"),
    ],
)
def test_a_broken_plugin_is_a_warning_that_names_it(
    monkeypatch: pytest.MonkeyPatch, fake: str, message: str
) -> None:
    monkeypatch.syspath_prepend(str(FAKES / fake))
    with pytest.warns(PluginWarning, match=message) as caught:
        known = load_registry()
    assert fake in str(caught[0].message)
    assert known.get("encoder", "blcf").distribution == "instsearch"


@pytest.mark.usefixtures("_fresh_registry")
def test_a_stranger_is_loaded_like_the_built_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAKES / "good"))
    offer = load_registry().get("weighting", "fake")
    assert (offer.distribution, offer.version) == ("good-plugin", "1.5")
    assert offer.load().__name__ == "Fake"


@pytest.mark.usefixtures("_fresh_registry")
def test_strangers_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAKES / "good"))
    monkeypatch.setenv("INSTSEARCH_PLUGINS", "")
    with pytest.raises(UsageError, match="no weighting is called 'fake'"):
        load_registry().get("weighting", "fake")


@pytest.mark.usefixtures("_fresh_registry")
def test_two_with_one_name_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAKES / "clash"))
    with pytest.raises(InstsearchError, match=r"instsearch 0\..*clash-plugin 2\.0"):
        load_registry()


@pytest.mark.usefixtures("_fresh_registry")
@pytest.mark.parametrize("name", ["my_w:x", "größe", "a+b", "", ".a", "a b"])
def test_a_name_that_no_pipeline_can_have_is_a_warning(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(str(FAKES / "good"))
    fake_good = importlib.import_module("fake_good")

    specs = [WeighterSpec("right", "fake_good:Fake", ""), WeighterSpec(name, "fake_good:Fake", "")]
    monkeypatch.setattr(fake_good, "instsearch_weighters", hookimpl(lambda: specs))
    with pytest.warns(PluginWarning, match=r"good-plugin .*a name is of letters and digits"):
        known = load_registry()
    assert not {"right", name} & known.offers["weighting"].keys()


def test_a_wrong_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'squeezenet1_0'"):
        load_registry().get("extractor", "squeezenet")


def test_a_factory_that_is_not_there_names_its_distribution() -> None:
    registry = Registry()
    registry.add(Offer(EncoderSpec("x", "json:NoSuchThing", "nothing"), "some-package", "3"))
    with pytest.raises(InstsearchError, match="some-package 3"):
        registry.get("encoder", "x").load()


def test_every_hook_has_a_kind_and_a_docstring() -> None:
    from instsearch_cli import hookspecs

    hooks = [name for name in vars(hookspecs) if name.startswith("instsearch_")]
    assert sorted([*HOOKS.values(), "instsearch_commands"]) == sorted(hooks)
    assert all(vars(hookspecs)[name].__doc__ for name in hooks)


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"]])
def test_help_and_plugins_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from instsearch_cli.main import run; run(sys.argv[1:]); "
        "heavy = {'torch', 'h5py', 'faiss', 'cv2', 'numpy', 'torchvision'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_core_never_imports_a_plugin_and_the_format_imports_neither() -> None:
    import ast

    root = Path(__file__).parents[2]
    forbidden = {
        root / "instsearch_cli": {"instsearch_plugins"},
        root / "formats" / "instsearch_formats": {"instsearch_plugins", "instsearch_cli", "torch", "click"},
    }
    for folder, names in forbidden.items():
        files = list(folder.rglob("*.py"))
        assert files
        for file in files:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    modules = [node.module or ""]
                else:
                    continue
                assert not names & {m.split(".")[0] for m in modules}, file
