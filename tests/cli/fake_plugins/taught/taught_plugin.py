"""Weightings for measures on annotated datasets: one learns from the collection, the others are known by heart."""

from dataclasses import dataclass

import numpy as np
import torch

from instsearch_cli import WeighterSpec, hookimpl
from instsearch_cli.data import Grid, WeightMap

FITS: list[list[int]] = []
MAPS: list[str] = []


@hookimpl
def instsearch_weighters():
    return [
        WeighterSpec("unlike", "taught_plugin:Unlike", "how far from the mean of all", needs=("features",)),
        WeighterSpec("dozen", "taught_plugin:Dozen", "1 to 12 on three rows of four cells"),
        WeighterSpec("some", "taught_plugin:Some", "nothing in some pictures"),
        WeighterSpec("nothing", "taught_plugin:Nothing", "nothing anywhere"),
    ]


class Base:
    @dataclass(frozen=True)
    class Config:
        power: float = 1.0

    def __init__(self, config, device):
        self.config = config


class Unlike(Base):
    def fit(self, data, progress):
        FITS.append(data.images.tolist())
        return {
            "mean": torch.stack([i.features.values.mean((1, 2)) for i in data.inputs(("features",))]).mean(0)
        }

    def load(self, state):
        self.mean = torch.from_numpy(np.array(state["mean"]))[:, None, None]

    def weigh(self, inputs):
        MAPS.append(inputs.name)
        away = (inputs.features.values - self.mean).norm(dim=0, keepdim=True)
        return WeightMap(away**self.config.power, inputs.features.grid)


class Dozen(Base):
    def weigh(self, inputs):
        halves = torch.arange(1.0, 13).reshape(1, 3, 4) / 2
        return WeightMap(torch.cat([halves, halves]), Grid.over(3, 4, inputs.size))  # two maps, to be added


class Nothing(Base):
    def weigh(self, inputs):
        return WeightMap(torch.zeros(1, *inputs.grid.shape), inputs.grid)


class Some(Base):
    def weigh(self, inputs):
        lit = float(not inputs.name.endswith("1.png"))
        return WeightMap(torch.full((1, *inputs.grid.shape), lit), inputs.grid)
