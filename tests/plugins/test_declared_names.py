"""What is public of a component is what its base classes declare: everything else begins with an underscore."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator

import pytest

from instsearch_cli.components import BASES, Weighter
from instsearch_cli.engine.registry import load_registry
from instsearch_cli.networks.training import Trainer
from instsearch_cli.testing import WeighterContract, undeclared


def named() -> Iterator[object]:
    """The class that each built-in spec names, and what trains it, with the base class of its kind."""
    for kind, offers in load_registry().offers.items():
        for name, offer in offers.items():
            if offer.distribution != "instsearch":
                continue
            yield pytest.param(offer.spec.factory, BASES[kind], id=f"{kind} {name}")
            if trainer := getattr(offer.spec, "trainer", ""):
                yield pytest.param(trainer, Trainer, id=f"trainer of {name}")


@pytest.mark.parametrize(("path", "base"), [*named()])
def test_a_component_has_no_name_of_its_own_in_public(path, base):
    component = pkgutil.resolve_name(path)
    assert issubclass(component, base)
    assert undeclared(component, base) == []


class Plain:
    def weigh(self, inputs):
        return self.tune()

    def tune(self):
        return self._cells

    _cells = 4
    colour = "red"


class Declaring(Weighter):
    colour = ""

    def tune(self):
        return 0


class Inheriting(Declaring):
    maps = 2
    colour = "blue"

    def tune(self):
        return 1


def test_names_without_a_base_class_are_told():
    assert undeclared(Plain, Weighter) == ["colour", "tune"]
    assert undeclared(Declaring, Weighter) == ["colour", "tune"]
    assert undeclared(Inheriting, Weighter) == []


def test_the_contract_names_them():
    class Contract(WeighterContract):
        component = Plain

    with pytest.raises(AssertionError, match=r"no base class of Plain declares colour, tune"):
        Contract().test_no_public_name_is_undeclared()
    Contract().test_config_is_a_frozen_dataclass_with_defaults()
    assert isinstance(Contract().make(), Weighter)
