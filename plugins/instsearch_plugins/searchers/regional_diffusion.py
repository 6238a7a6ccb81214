"""Regional diffusion (Iscen, Tolias, Avrithis, Furon and Chum, CVPR 2017): every region is a vector of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from instsearch_cli.components import option
from instsearch_plugins.searchers.diffusion import Diffusion


class RegionalDiffusion(Diffusion):
    """`diffusion` with the paper's setting for several regions an image; the options are the same.

    It goes with encoder `regions`, and with its `query-apart`: the similarities of the query's regions add up.
    """

    name: ClassVar[str] = "regional-diffusion"

    @dataclass(frozen=True)
    class Config(Diffusion.Config):
        """Options of ``regional-diffusion``."""

        k: int = option(200, touches="search")  #: nearest vectors that may be neighbours, itself among them
        kq: int = option(200, touches="query")  #: vectors nearest to the query that set off the diffusion

    config: Config
