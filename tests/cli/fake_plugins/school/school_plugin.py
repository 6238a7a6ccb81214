"""A weighting whose network, a line with dropout, is trained on numbers in text files, in two stages."""

from dataclasses import dataclass

import torch
from torch import nn

from instsearch_cli import WeighterSpec, hookimpl
from instsearch_cli.components import option
from instsearch_cli.images import BadImage
from instsearch_cli.networks.training import Best

HOOK = [lambda stage, step: None]  #: called in every step; tests put their accidents here


@hookimpl
def instsearch_weighters():
    return [
        WeighterSpec("pupil", "school_plugin:Pupil", "a line", trainer="school_plugin:Teacher"),
        WeighterSpec("wild", "school_plugin:Pupil", "grows wild", trainer="school_plugin:Nowhere"),
    ]


class Pupil:
    @dataclass(frozen=True)
    class Config:
        weights: str = option("", "query")

    def __init__(self, config, device):
        pass


class Teacher:
    @dataclass(frozen=True)
    class Config:
        epochs: int = 3  #: of the first stage
        more: int = 2  #: of the second
        lr: float = 0.1  #: learning rate
        seed: int = 0  #: of everything
        workers: int = option(1, "query")  #: threads

        def __post_init__(self):
            if self.epochs < 0:
                raise ValueError("epochs is at least 0")

    def __init__(self, config, device):
        self.config = config

    def train(self, data, run):
        torch.manual_seed(self.config.seed)
        line = nn.Linear(3, 1)
        best = Best()
        self.stage(run, data, "first", self.config.epochs, line, best)
        self.stage(run, data, "second", self.config.more, line, best)
        run.card["held out"] = {"best": round(best.loss, 6)}
        return line.state_dict()

    def stage(self, run, data, name, epochs, line, best):
        optimizer = torch.optim.SGD(line.parameters(), self.config.lr, momentum=0.9)
        files = sorted(data.glob("*.txt"))
        for epoch in run.stage(name, epochs, line=line, optimizer=optimizer, best=best):
            order = files[epoch % len(files) :] + files[: epoch % len(files)]
            for y in run.steps([[f] for f in order], self.read, self.config.workers):
                HOOK[0](name, run.step)
                loss = (line(nn.functional.dropout(torch.ones(3))) - y).square().sum()
                run.log(square=loss)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            best.offer(float(loss.detach()), line)
            run.measured(last=float(loss.detach()))

    def read(self, batch):
        try:
            return float(batch[0].read_text())
        except ValueError:
            raise BadImage("no number") from None
