from dataclasses import dataclass

from instsearch_cli import WeighterSpec, hookimpl


@hookimpl
def instsearch_weighters():
    return [WeighterSpec("fake", "fake_good:Fake", "a fake")]


class Fake:
    @dataclass(frozen=True)
    class Config:
        pass
