"""The course of a training, from its log, as a picture."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from instsearch_cli.networks.training import LOG
from instsearch_cli.report.plot import Curve, curves

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def means(log: Path) -> dict[str, dict[int, float]]:
    """The mean of every number of a log over each epoch: name -> epoch -> mean. Stages count on."""
    sums: dict[str, dict[int, tuple[float, int]]] = {}
    last: dict[str, int] = {}
    with log.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            before = sum(n for stage, n in last.items() if stage != row["stage"])
            last[row["stage"]] = int(row["epoch"])
            of = sums.setdefault(row["name"], {})
            total, n = of.get(at := before + int(row["epoch"]), (0.0, 0))
            of[at] = total + float(row["value"]), n + 1
    return {name: {at: total / n for at, (total, n) in of.items()} for name, of in sums.items()}


def draw(folder: Path, shares: Collection[str], title: str) -> None:
    """OUT.training/curves.svg: every number of the log by epochs, those of ``shares`` by their first value."""
    shown = []
    for name, of in means(folder / LOG).items():
        first = next(iter(of.values())) if name in shares else 1.0
        label = f"{name} / {first:.3g}" if name in shares else name
        shown.append(Curve(label, list(of), [value / (first or 1.0) for value in of.values()]))
    if shown:
        curves(folder / "curves.svg", shown, "epoch", "mean over the epoch", title)
