"""Encoders of this package."""

from __future__ import annotations

from instsearch_cli import EncoderSpec, hookimpl
from instsearch_plugins.registry.papers import (
    BLCF,
    CAM,
    CROW,
    DASR,
    DEEPVISION,
    HERE,
    MSCNET,
    READS,
    RMAC,
)


@hookimpl
def instsearch_encoders() -> list[EncoderSpec]:
    """Bags of local features, and pooling."""
    return [
        EncoderSpec(
            "blcf",
            f"{HERE}.encoders.blcf:BLCF",
            "bag of local (convolutional) features: assignment map, weighted histogram",
            BLCF,
            READS,
            default_for=("any",),
        ),
        EncoderSpec(
            "bovw",
            f"{HERE}.encoders.bovw:BagOfVisualWords",
            "bag of visual words at keypoints, with Hamming signatures; a vocabulary for sift comes with it",
            "Sivic & Zisserman, Video Google, 2003; Jégou et al., 2008",
            READS,
        ),
        EncoderSpec(
            "asmk",
            f"{HERE}.encoders.asmk:ASMK",
            "what the local features of each word are off it, added up; for searcher asmk",
            "Tolias et al., To aggregate or not to aggregate, ICCV 2013; HOW, ECCV 2020",
            READS,
        ),
        EncoderSpec(
            "sum",
            f"{HERE}.encoders.sum_pooling:SumPooling",
            "weighted sum pooling, PCA-whitened",
            BLCF,
            READS,
        ),
        EncoderSpec(
            "deepvision",
            f"{HERE}.encoders.deepvision:DeepVision",
            "image-wise pooling: one vector of the whole picture, whose regions are for reranker deepvision",
            DEEPVISION,
            ("features", "weights"),
        ),
        EncoderSpec(
            "spoc",
            f"{HERE}.encoders.spoc:SPoC",
            "sum pooling with a centre prior, PCA-whitened",
            "Babenko & Lempitsky, 2015",
            READS,
        ),
        EncoderSpec(
            "ucrow",
            f"{HERE}.encoders.sum_pooling:SumPooling",
            "CroW without its weights: sum by another name",
            CROW,
            READS,
        ),
        EncoderSpec(
            "crow",
            f"{HERE}.encoders.crow:CroW",
            "cross-dimensional weighting: cells by response, channels by sparsity",
            CROW,
            READS,
        ),
        EncoderSpec(
            "netvlad",
            f"{HERE}.encoders.netvlad:NetVLAD",
            "soft residuals to some words, by k-means or of a trained layer",
            "Arandjelović et al., NetVLAD: CNN architecture for weakly supervised place recognition, CVPR 2016",
            READS,
            trainer=f"{HERE}.training.netvlad:NetVLADTrainer",
        ),
        EncoderSpec(
            "scda",
            f"{HERE}.encoders.scda:SCDA",
            "the selected cells' mean and maximum, one after the other; goes with weighting scda",
            "Wei et al., Selective convolutional descriptor aggregation, IEEE TIP 2017",
            READS,
        ),
        EncoderSpec(
            "gem", f"{HERE}.encoders.gem:GeM", "generalised mean pooling", "Radenović et al., 2019", READS
        ),
        EncoderSpec(
            "pwa",
            f"{HERE}.encoders.pwa:PWA",
            "part-based weighting: sum pooling under 25 channels as part detectors",
            "Xu et al., 2018",
            READS,
        ),
        EncoderSpec(
            "mscnet",
            f"{HERE}.encoders.mscnet:MSCNetCodes",
            "masks, Gram-weighted channels, a learnt projection; PCA-whitened",
            MSCNET,
            READS,
            trainer=f"{HERE}.training.mscnet:MSCNetTrainer",
        ),
        EncoderSpec(
            "cam",
            f"{HERE}.encoders.cam:CAM",
            "a vector for each class, pooled under its map and whitened, then summed; with weighting cam",
            CAM,
            ("features", "weights"),
        ),
        EncoderSpec(
            "mac",
            f"{HERE}.encoders.mac:MAC",
            "maximum activations of convolutions, PCA-whitened",
            RMAC,
            READS,
        ),
        EncoderSpec(
            "regions",
            f"{HERE}.encoders.regions:RegionCodes",
            "every region by itself: MAC of each, PCA-whitened; hits have boxes",
            RMAC,
            READS,
        ),
        EncoderSpec(
            "regions-mean",
            f"{HERE}.encoders.regions_mean:MeanRegionCodes",
            "every region by itself: the mean under its box, PCA-whitened; hits have boxes",
            DASR,
            READS,
        ),
        EncoderSpec(
            "vlad",
            f"{HERE}.encoders.vlad:VLAD",
            "one vector of what regions, or local features, are off a few words",
            "Jégou et al., 2011; Delhumeau et al., 2013",
            READS,
        ),
        EncoderSpec(
            "regions-sum",
            f"{HERE}.encoders.regions_sum:RegionsSum",
            "R-MAC over any detector's regions: each whitened, then summed",
            RMAC,
            READS,
        ),
        EncoderSpec(
            "regional-attention",
            f"{HERE}.encoders.regional_attention:RegionalAttention",
            "R-MAC whose regions count as much as a trained network says; goes with detector grid",
            "Kim & Yoon, Regional attention based deep feature for image retrieval, BMVC 2018",
            READS,
            trainer=f"{HERE}.training.regional_attention:RegionalAttentionTrainer",
        ),
    ]
