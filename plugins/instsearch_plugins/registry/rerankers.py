"""Rerankers of this package."""

from __future__ import annotations

from instsearch_cli import RerankerSpec, hookimpl
from instsearch_plugins.registry.papers import CAM, DASR, DEEPVISION, HERE, RMAC, WINDOWS


@hookimpl
def instsearch_rerankers() -> list[RerankerSpec]:
    """Query expansion and geometric verification."""
    return [
        RerankerSpec(
            "aqe",
            f"{HERE}.rerankers.aqe:AverageQueryExpansion",
            "average query expansion: search again with the query plus its top hits",
            "Chum et al., 2007",
            ("codes",),
        ),
        RerankerSpec(
            "alpha-qe",
            f"{HERE}.rerankers.alpha_qe:AlphaQueryExpansion",
            "query expansion, each hit weighted by its similarity to a power",
            "Radenović et al., 2019",
            ("codes",),
        ),
        RerankerSpec(
            "r-match",
            f"{HERE}.rerankers.r_match:RMatch",
            "sum over the query's regions of the best match among the image's",
            "Iscen et al., 2017",
            ("codes",),
        ),
        RerankerSpec(
            "deepvision",
            f"{HERE}.rerankers.deepvision:DeepVision",
            "the region of each hit that is most like the query's box; gives every hit looked at its box",
            DEEPVISION,
            ("features", "regions"),
        ),
        RerankerSpec(
            "chamfer",
            f"{HERE}.rerankers.chamfer:Chamfer",
            "each of the query's local features with its best match in a hit; gives every hit looked at its box",
            "Barrow et al., 1977; Suma et al., ELViS, ICLR 2026; transport: Sarlin et al., SuperGlue, 2020",
            ("features",),
        ),
        RerankerSpec(
            "superglobal",
            f"{HERE}.rerankers.superglobal:SuperGlobal",
            "the best hits' codes refined by each other, and the query's by theirs; nothing else is read",
            "Shao et al., Global features are all you need for image retrieval and reranking, ICCV 2023",
            ("codes",),
        ),
        RerankerSpec(
            "k-reciprocal",
            f"{HERE}.rerankers.k_reciprocal:KReciprocal",
            "the best hits by whose nearest neighbours they are, and who is theirs; nothing else is read",
            "Zhong et al., Re-ranking person re-identification with k-reciprocal encoding, CVPR 2017",
            ("codes",),
        ),
        RerankerSpec(
            "region-box",
            f"{HERE}.rerankers.region_box:RegionBox",
            "each hit's box from all of its regions, weighed by their scores; ranks stay",
            DASR,
            ("codes",),
        ),
        RerankerSpec(
            "aml",
            f"{HERE}.rerankers.aml:AML",
            "finds the query's maxima in each hit's map; gives every hit looked at its box",
            RMAC,
            ("features", "local"),
        ),
        RerankerSpec(
            "cam-boxes",
            f"{HERE}.rerankers.cam_boxes:CAMBoxes",
            "boxes around what is hot on the maps of the query's classes; gives every hit looked at its box",
            CAM,
            ("features",),
        ),
        RerankerSpec(
            "gqe",
            f"{HERE}.rerankers.aqe:AverageQueryExpansion",
            "global query expansion: aqe under the name it has beside lqe",
            WINDOWS,
            ("codes",),
        ),
        RerankerSpec(
            "lqe",
            f"{HERE}.rerankers.lqe:LocalQueryExpansion",
            "local query expansion: hits are added as they are inside their boxes; after spatial",
            WINDOWS,
            ("codes", "local"),
        ),
        RerankerSpec(
            "spatial",
            f"{HERE}.rerankers.spatial:Spatial",
            "the window of each hit most like the query's box; gives every hit looked at its box",
            WINDOWS,
            ("local",),
        ),
        RerankerSpec(
            "geometric",
            f"{HERE}.rerankers.geometric:Geometric",
            "ratio test and a similarity model on keypoints; gives every verified hit its box",
            "Lowe, 2004; Philbin et al., 2007",
            ("features",),
            default_for=("pairs",),
        ),
        RerankerSpec(
            "lightglue",
            f"{HERE}.rerankers.lightglue:LightGlue",
            "a network matches ALIKED keypoints, an affine model verifies; gives every verified hit its box",
            "Lindenberger et al., 2023",
            ("features",),
        ),
        RerankerSpec(
            "lightglue-disk",
            f"{HERE}.rerankers.lightglue:DiskLightGlue",
            "lightglue for DISK keypoints",
            "Lindenberger et al., 2023",
            ("features",),
        ),
        RerankerSpec(
            "lighterglue",
            f"{HERE}.rerankers.lightglue:LighterGlue",
            "lightglue for XFeat keypoints: six narrower layers",
            "Lindenberger et al., 2023; Potje et al., 2024",
            ("features",),
        ),
        RerankerSpec(
            "verified-qe",
            f"{HERE}.rerankers.verified_qe:VerifiedQueryExpansion",
            "search again with the keypoints of verified hits, from stored words; no picture is read",
            "Chum et al., 2007",
            ("local",),
        ),
        RerankerSpec(
            "aligned",
            f"{HERE}.rerankers.aligned:Aligned",
            "look-alikes: hits aligned with the query's box, lowered by what differs; before verdict",
            "Shi and Tomasi, 1994; Philbin et al., 2007",
            ("image", "local"),
        ),
        RerankerSpec(
            "verdict",
            f"{HERE}.rerankers.verdict:Verdict",
            "scores become probabilities that a hit shows the object; last, after geometric; ranks stay",
            "Platt, 1999",
        ),
    ]
