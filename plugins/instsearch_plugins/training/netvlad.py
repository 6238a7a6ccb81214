"""Training NetVLAD's layer over a frozen network by the weakly supervised triplet ranking loss (Arandjelović, Gronat,
Torii, Pajdla and Sivic, "NetVLAD: CNN architecture for weakly supervised place recognition", CVPR 2016, section 4 and
appendix A). The network is not trained, as the paper's is from conv5 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from instsearch_cli.components import option
from instsearch_cli.errors import InstsearchError, UsageError, nearest
from instsearch_cli.networks.training import Best, Trainer
from instsearch_cli.networks.weights import sha256
from instsearch_plugins.encoders.netvlad import published
from instsearch_plugins.extractors.networks import SMALLEST, Network
from instsearch_plugins.numeric.netvlad import Vocabulary, by_kmeans, netvlad
from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.weak_ranking import triplet_losses
from instsearch_plugins.training.basic_conv import extractors
from instsearch_plugins.training.descent import descend
from instsearch_plugins.training.kept_cells import KeptCells
from instsearch_plugins.training.labelled import option_file
from instsearch_plugins.training.mscnet_batches import digest
from instsearch_plugins.training.netvlad_tuples import Mined, Places, Tuple, by_labels, by_pairs, ranks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from instsearch_cli.networks.training import Run
    from instsearch_cli.progress import Quiet

LAYERS = {
    "vgg16": "features.28"
}  #: conv5_3 before its ReLU, the paper's, where that is not the extractor's choice
VECTORS = "vectors.npy"
WITHIN = (1, 5)  #: the ranks of which the recall is measured; the last one chooses the epoch


class Layer(nn.Module):
    """c f32[K, D] as ``centroids``, w and b as ``conv``: x f32[n, D] of unit length -> f32[K D] of unit length."""

    def __init__(self, words: Vocabulary) -> None:
        super().__init__()
        K, D = words.c.shape
        self.centroids = nn.Parameter(words.c.clone())
        self.conv = nn.Conv2d(D, K, 1)
        with torch.no_grad():
            self.conv.weight.copy_(words.w[..., None, None])
            assert self.conv.bias is not None
            self.conv.bias.copy_(words.b)

    def forward(self, x: Tensor) -> Tensor:
        """f_theta: the vector of a picture before it is whitened."""
        assert self.conv.bias is not None
        words = Vocabulary(self.centroids, self.conv.weight[..., 0, 0], self.conv.bias)
        return l2(netvlad(x, x.new_ones(1, len(x)), words)[0])


class NetVLADTrainer(Trainer):
    """Trains the words c, the weights w and the biases b on pairs of matching images, or on classes."""

    @dataclass(frozen=True)
    class Config:
        """Options; the paper's by default."""

        #: CSV file of matching images, two names a line, as `instsearch pairs` writes it; empty: classes
        pairs: str = option("", digested=True)
        labels: str = option("", digested=True)  #: CSV file path,label; empty, without pairs: class folders
        network: str = "vgg16"  #: what makes the maps: a torchvision network among the extractors
        layer: str = ""  #: of the network; empty: its own, VGG-16's conv5_3 before the ReLU
        max_size: int = 448  #: larger pictures are reduced to this long side, in pixels
        weights: str = option(
            "", digested=True
        )  #: the network's file; empty: INSTSEARCH_WEIGHTS, torchvision's
        start: str = option("", digested=True)  #: first words: the file of a layer; empty: k-means
        words: int = 64  #: K, of k-means
        n_train: int = 50_000  #: local features that k-means sees, as many from each picture
        iterations: int = 20  #: of k-means
        margin: float = 0.1  #: m
        #: potential positives of a query that are looked at, the nearest; the paper takes all
        positives: int = 10
        negatives: int = 10  #: the hardest of those sampled and of the last round's
        sampled: int = 1000  #: negatives by chance that these are chosen from
        round: int = 1000  #: queries after which all vectors are computed anew, and tuples chosen by them
        lr: float = 0.001  #: learning rate
        lr_every: int = 5  #: epochs after which it is halved
        momentum: float = 0.9  #: of the descent
        weight_decay: float = 0.001  #: L2 of c, w and b
        epochs: int = 30  #: all queries once in each
        batch: int = 4  #: tuples a step
        held_out: float = 0.2  #: share of the queries that is validated on, in whole groups; 0: none
        #: which epoch's weights are written; best: of the highest recall at 5 of the held-out queries
        keep: Literal["best", "last"] = "best"
        seed: int = 0  #: of k-means, order and samples
        workers: int = option(2, "query")  #: threads that read ahead

        def __post_init__(self) -> None:
            whole = [self.words, self.n_train, self.iterations, self.positives, self.negatives, self.sampled]
            whole += [self.round, self.lr_every, self.epochs, self.batch, self.workers]
            if min(whole) < 1 or self.seed < 0:
                raise ValueError(
                    "words, n-train, iterations, positives, negatives, sampled, round, lr-every, epochs, batch and "
                    "workers are at least 1, seed at least 0"
                )
            if self.pairs and self.labels:
                raise ValueError("pairs or labels, not both")
            if self.max_size < SMALLEST or self.margin <= 0 or not 0 <= self.held_out < 1:
                raise ValueError(
                    f"max-size is at least {SMALLEST}, margin above 0, held-out from 0 to below 1"
                )

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        known = extractors()
        if config.network not in known:
            raise UsageError(f"there is no network '{config.network}'.{nearest(config.network, known)}")
        layer = config.layer or LAYERS.get(config.network, "")
        options = Network.Config(layer=layer, max_size=config.max_size, weights=config.weights)
        self.extractor = known[config.network](options, device)

    def identity(self) -> dict[str, str]:
        """The sha256 of the files that decide the result. Raises InstsearchError if one is not there."""
        c = self.config
        files = {"weights": self.extractor.weights}
        for name, value in (("pairs", c.pairs), ("labels", c.labels), ("start", c.start)):
            if value:
                files[name] = option_file(name, value)
        return {name: sha256(path) for name, path in files.items()}

    def digest(self, data: Path, progress: Quiet) -> dict[str, Any]:
        return digest(data, progress)

    def train(self, data: Path, run: Run) -> Mapping[str, Tensor]:
        """centroids f32[K, D], conv.weight f32[K, D, 1, 1], conv.bias f32[K]: a file that the encoder reads."""
        c = self.config
        torch.manual_seed(c.seed)
        places = self._places(data)
        cells = KeptCells(run.folder / "cells", places.paths, self.extractor)
        workers = c.workers if self.extractor.concurrent else 1
        for _ in run.stage("features", 1):
            for n in run.steps([[i] for i in range(len(places.paths))], cells.make, workers):
                run.log(cells=n)
        places.there = cells.usable()
        first = self._first(cells, places.there, run)
        layer = Layer(first).to(self.device)
        queries = places.queries()
        held = places.held(queries, c.held_out, c.seed) if len(queries) else places.there
        tested, queries = queries[held[queries]], queries[~held[queries]]
        self._check(places, places.there & ~held, queries)
        optimizer = torch.optim.SGD(layer.parameters(), c.lr, c.momentum, weight_decay=c.weight_decay)
        mined, best = Mined(places, c.positives, c.negatives, c.sampled, c.seed), Best()
        vectors = _Vectors(run, layer, cells, places.there)
        rounds = -(-len(queries) // c.round)

        parts: dict[str, Any] = {"layer": layer, "optimizer": optimizer, "mined": mined, "best": best}
        for number in run.stage("descent", c.epochs * rounds, **parts):
            epoch, part = divmod(number, rounds)
            optimizer.param_groups[0]["lr"] = c.lr * 0.5 ** (epoch // c.lr_every)
            order = np.random.default_rng([c.seed, 0, epoch]).permutation(queries)
            order = order[part * c.round : (part + 1) * c.round]
            if mined.round != number:
                mined.mine(number, order, places.there & ~held, vectors.now())
            batches = [order[i : i + c.batch].tolist() for i in range(0, len(order), c.batch)]
            for tuples, x in run.steps(batches, lambda batch: _load(mined.tuples(batch), cells), c.workers):
                run.log(triplet=self._step(layer, optimizer, tuples, x))
            if len(tested):
                recalls = _recalls(ranks(places, vectors.now(), tested))
                run.measured(**recalls)
                best.offer(-recalls[f"recall_{WITHIN[-1]}"], layer)

        if best.weights and c.keep == "best":
            layer.load_state_dict(best.weights)
        self._write_card(run, places, cells, len(queries), len(tested))
        if len(tested):
            run.card["held out"] = {}
            for of, vectors.layer in (("", layer), (" of the first words", Layer(first).to(self.device))):
                for name, value in _recalls(ranks(places, vectors.anew(), tested)).items():
                    run.card["held out"][name.replace("_", "@") + of] = round(value, 4)
        vectors.remove()
        cells.remove()
        return layer.state_dict()

    def _places(self, data: Path) -> Places:
        c = self.config
        if c.pairs:
            return by_pairs(data, option_file("pairs", c.pairs))
        return by_labels(data, option_file("labels", c.labels) if c.labels else None)

    def _first(self, cells: KeptCells, there: np.ndarray, run: Run) -> Vocabulary:
        """The first words: a file's, or those of k-means, assigned as a hundred to one. Reference: appendix A."""
        c = self.config
        if c.start:
            words, D = (
                published(option_file("start", c.start)).words,
                cells[int(np.flatnonzero(there)[0])].shape[1],
            )
            if words.c.shape[1] != D:
                raise UsageError(
                    f"start: {c.start} is for local features of {words.c.shape[1]:,} values, these have {D:,}"
                )
            return words
        rows, found = np.flatnonzero(there), []
        for i in rows.tolist():
            x = cells[i]
            chosen = np.random.default_rng([c.seed, 3, i]).permutation(len(x))[: -(-c.n_train // len(rows))]
            found.append(x[torch.from_numpy(np.sort(chosen))])
        return by_kmeans(l2(torch.cat(found).to(self.device)), c.words, c.iterations, c.seed, run.progress)

    def _step(
        self, layer: Layer, optimizer: torch.optim.Optimizer, tuples: Sequence[Tuple], x: Mapping[int, Tensor]
    ) -> float:
        """One step down the mean of the triplets' losses that are above 0; returns the mean of L over the tuples.

        The mean over triplets, not over tuples, is the authors' code's.
        """
        f = {i: layer(local.to(self.device)) for i, local in x.items()}
        losses = torch.cat(
            [
                triplet_losses(f[t.q], _stacked(f, t.positives), _stacked(f, t.negatives), self.config.margin)
                for t in tuples
            ]
        )
        count = int((losses > 0).sum())
        if count:
            descend(losses.sum() / count, optimizer)
        return float(losses.detach().sum()) / len(tuples)

    def _check(self, places: Places, trained: np.ndarray, queries: np.ndarray) -> None:
        if not len(queries):
            raise InstsearchError("no picture has another one that matches it: there is nothing to train on")
        if len(np.unique(places.group[trained])) < 2:
            raise InstsearchError(
                "all pictures hang together, and none is a negative of another: add pictures of other objects"
            )

    def _write_card(self, run: Run, places: Places, cells: KeptCells, queries: int, tested: int) -> None:
        c = self.config
        run.card["images"] = {
            "pictures": int(places.there.sum()),
            "queries": queries,
            "held out": tested,
            "skipped": dict(sorted(cells.skipped.items())),
        }
        used: dict[str, Any] = {"extractor": c.network, "extractor.layer": self.extractor.layer}
        if c.max_size != Network.Config.max_size:
            used["extractor.max-size"] = c.max_size
        # PCA makes all directions count alike, also those that training found
        run.card |= {"used with": used, "component options": {"whiten": "false"}}
        if cells.skipped:
            run.progress.say(f"{len(cells.skipped):,} pictures were not used: see the card")


class _Vectors:
    """The vectors f32[N, K D] of all pictures as the layer is now, in a file; 0 for pictures that are not there."""

    def __init__(self, run: Run, layer: Layer, cells: KeptCells, there: np.ndarray) -> None:
        self.run, self.layer, self.cells, self.there = run, layer, cells, there
        self.file, self._at = run.folder / VECTORS, -1
        shape = (len(there), layer.centroids.numel())
        self.values = np.lib.format.open_memmap(self.file, mode="w+", dtype=np.float32, shape=shape)

    def now(self) -> np.ndarray:
        """The vectors, computed anew where steps were taken since."""
        return self.values if self._at == self.run.step else self.anew()

    @torch.no_grad()
    def anew(self) -> np.ndarray:
        """The vectors, computed anew."""
        self._at = -1
        for i in np.flatnonzero(self.there).tolist():
            self.values[i] = self.layer(self.cells[i].to(self.layer.centroids.device)).cpu().numpy()
            self.run.check()
        self._at = self.run.step
        return self.values

    def remove(self) -> None:
        """Delete the file."""
        self.file.unlink(missing_ok=True)


def _load(tuples: list[Tuple], cells: KeptCells) -> tuple[list[Tuple], dict[int, Tensor]]:
    """Tuples with the local features of all their pictures."""
    rows = np.unique(np.concatenate([[t.q, *t.positives, *t.negatives] for t in tuples]))
    return tuples, {int(i): cells[int(i)] for i in rows}


def _stacked(f: Mapping[int, Tensor], rows: np.ndarray) -> Tensor:
    return torch.stack([f[int(i)] for i in rows])


def _recalls(rank: np.ndarray) -> dict[str, float]:
    """The shares of queries that find a match among so many."""
    return {f"recall_{n}": float((rank <= n).mean()) for n in WITHIN}
