"""TriHard loss by passes of a few images, so that a large batch needs the memory of a small one.

Hermans, Beyer and Leibe, "In defense of the triplet loss for person re-identification", 2017; by passes: Xiang
et al., "Multiple saliency and channel sensitivity network for aggregated convolutional feature", AAAI 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from instsearch_plugins.numeric.mscnet import hardest, mask_cosine, ngd_loss, triplet_terms
from instsearch_plugins.numeric.ranking import occurrences

if TYPE_CHECKING:
    from collections.abc import Callable


class Means(NamedTuple):
    """Over the anchors: the TriHard loss, the Gram-difference loss, and the masks' cosine."""

    trihard: float
    ngd: float
    cosine: float


@dataclass(frozen=True)
class TriHard:
    """L = 1/N sum_a {max_p ||z_a - z_p|| - min_n ||z_a - z_n|| + m}_+ + alpha/N sum_a L_NGD(M_a), N anchors.

    anchors  "all": every image of the batch is one, in one pass after the other; "one": one image of each
             class, in a single pass, which is K times cheaper and as much noisier
    """

    margin: float = 0.1
    alpha: float = 0.01
    beta: float = 0.5
    form: Literal["paper", "mean"] = "paper"
    anchors: Literal["all", "one"] = "all"

    def backward(
        self, describe: Callable[[Tensor], tuple[Tensor, Tensor]], pixels: Tensor, labels: Tensor
    ) -> Means:
        """Add L's gradient to the parameters that ``describe`` goes through; raises ValueError for one class.

        1. All images are described without a graph, and each anchor's hardest positive and negative are found.
        2. The k-th pass has the k-th image of each class as anchors with their positives and negatives, at
           most 3 P images, each described once; its part of L is propagated back.

        The gradients are those of one pass over the whole batch, as long as an image's description does not
        depend on the others (no batch statistics). Positives and negatives whose term is 0 have no gradient
        and are left out.

        describe: pixels [B, ...] -> z f32[B, D], M f32[B, n, h, w]; pixels [B, ...], labels i64[B]
        """
        place = torch.from_numpy(occurrences(labels.numpy()))
        size = 3 * int((place == 0).sum())
        with torch.no_grad():
            z = torch.cat([describe(x)[0] for x in torch.split(pixels, size)]).cpu()
        p, n = hardest(z, labels)
        hard = triplet_terms(z, z[p], z[n], self.margin) > 0
        passes = 1 if self.anchors == "one" else int(place.max()) + 1
        N = int((place < passes).sum())
        sums = torch.zeros(3, dtype=torch.float64)
        for k in range(passes):
            a = (place == k).nonzero()[:, 0]
            rows, at = torch.unique(torch.cat((a, p[a][hard[a]], n[a][hard[a]])), return_inverse=True)
            z_k, M = describe(pixels[rows])
            at = at.to(z_k.device)
            own, (to, fro) = at[: len(a)], at[len(a) :].chunk(2)
            terms = triplet_terms(z_k[own[hard[a].to(own.device)]], z_k[to], z_k[fro], self.margin).sum()
            ngd = ngd_loss(M[own], self.beta, self.form) * len(a)
            loss = (terms + self.alpha * ngd) / N
            loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
            cosine = mask_cosine(M[own].detach()).sum()
            sums += torch.stack((terms.detach(), ngd.detach(), cosine)).double().cpu() / N
        return Means(*sums.tolist())
