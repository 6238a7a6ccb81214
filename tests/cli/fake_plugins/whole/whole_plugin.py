"""Weightings that give a map of the whole picture, and some that cannot be asked about a single one."""

from dataclasses import dataclass

import numpy as np
import torch

from instsearch_cli import WeighterSpec, hookimpl
from instsearch_cli.data import WeightMap


@hookimpl
def instsearch_weighters():
    return [
        WeighterSpec("red", "whole_plugin:Red", "the red channel", needs=("image",)),
        WeighterSpec("half", "whole_plugin:Half", "the red channel, every other pixel", needs=("image",)),
        WeighterSpec("hole", "whole_plugin:Hole", "not a number", needs=("image",)),
        WeighterSpec("fitted", "whole_plugin:Fitted", "fitted to a collection", needs=("features",)),
        WeighterSpec("worded", "whole_plugin:Worded", "reads codes", needs=("codes",)),
        WeighterSpec("narrow", "whole_plugin:Narrow", "the picture as the extractor asked", needs=("image",)),
    ]


class Base:
    @dataclass(frozen=True)
    class Config:
        power: float = 1.0

    def __init__(self, config, device):
        self.config = config

    def weigh(self, inputs):
        return WeightMap(torch.ones(1, *inputs.grid.shape), inputs.grid)


class Red(Base):
    def saliency(self, pixels):
        return (pixels[..., 0] / np.float32(255)) ** self.config.power


class Half(Base):
    def saliency(self, pixels):
        return torch.from_numpy(pixels[::2, ::2, 0] / np.float32(255))


class Hole(Base):
    def saliency(self, pixels):
        return np.full(pixels.shape[:2], np.nan)


class Fitted(Base):
    def fit(self, data, progress):
        return {}

    def load(self, state):
        pass


class Worded(Base):
    pass


class Narrow(Base):
    def weigh(self, inputs):
        assert inputs.features is None
        assert inputs.image.pixels.shape[1] <= 64
        red = torch.from_numpy(inputs.image.pixels[..., 0].copy()).float()
        cells = torch.nn.functional.adaptive_avg_pool2d(red[None], inputs.grid.shape)
        return WeightMap(cells, inputs.grid)
