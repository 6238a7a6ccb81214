"""A weighting that ends its process at some pictures: at black ones always, at white ones once."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch

from instsearch_cli import WeighterSpec, hookimpl
from instsearch_cli.data import WeightMap


@hookimpl
def instsearch_weighters():
    return [WeighterSpec("deadly", "deadly_plugin:Deadly", "ends its process", needs=("image", "features"))]


class Deadly:
    @dataclass(frozen=True)
    class Config:
        once: str = ""  #: a file that is there once a white picture was met

    def __init__(self, config, device):
        self.config = config

    def weigh(self, inputs):
        mean, met = inputs.image.pixels.mean(), Path(self.config.once)
        if mean == 0 or (mean == 255 and not met.exists()):
            met.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return WeightMap(torch.ones(1, *inputs.grid.shape), inputs.grid)
