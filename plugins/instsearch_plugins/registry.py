"""What this package offers. Strings only: nothing heavy is imported until a component is used."""

from __future__ import annotations

from instsearch_cli import (
    DatasetSpec,
    DetectorSpec,
    EncoderSpec,
    ExtractorSpec,
    RerankerSpec,
    SearcherSpec,
    WeighterSpec,
    hookimpl,
)

HERE = "instsearch_plugins"
BLCF = "Mohedano et al., Saliency weighted convolutional features for instance search, 2018"

READS = ("features", "weights", "regions")
RMAC = "Tolias et al., 2016"
CROW = "Kalantidis et al., Cross-dimensional weighting, 2016"
SAM = "Cornia et al., Predicting human eye fixations via an LSTM-based saliency attentive model, 2018"
DASR = "Xiao et al., Deeply activated salient region for instance search, 2020"
MSCNET = "Xiang et al., Multiple saliency and channel sensitivity network, 2019"
OBJECTS = "Siméoni et al., Unsupervised object discovery for instance recognition, 2018"
WINDOWS = "Mohedano et al., Bags of local convolutional features for scalable instance search, ICMR 2016"


@hookimpl
def instsearch_extractors() -> list[ExtractorSpec]:
    """SIFT and the torchvision networks."""
    networks = [
        (
            "vgg16",
            "VGG16",
            "VGG-16, conv5_1 after ReLU: 512 channels, stride 16",
            "Simonyan & Zisserman, 2015",
        ),
        ("resnet50", "ResNet50", "ResNet-50, layer4: 2048 channels, stride 32", "He et al., 2016"),
        ("resnet101", "ResNet101", "ResNet-101, layer4: 2048 channels, stride 32", "He et al., 2016"),
        (
            "densenet161",
            "DenseNet161",
            "DenseNet-161, ReLU of norm5: 2208 channels, stride 32",
            "Huang et al., 2017",
        ),
        (
            "squeezenet1_0",
            "SqueezeNet10",
            "SqueezeNet 1.0, last fire module: 512 channels, stride 16; small and fast",
            "Iandola et al., 2016",
        ),
    ]
    return [
        ExtractorSpec(
            "sift",
            f"{HERE}.extractors.sift:Sift",
            "RootSIFT keypoints; needs no weights",
            "Lowe, 2004; Arandjelovic & Zisserman, 2012",
        ),
        *(
            ExtractorSpec(name, f"{HERE}.extractors.networks:{cls}", summary, reference)
            for name, cls, summary, reference in networks
        ),
    ]


@hookimpl
def instsearch_weighters() -> list[WeighterSpec]:
    """Weights that need no training."""
    return [
        WeighterSpec("none", f"{HERE}.weighters.none:NoWeighting", "every local feature counts 1", BLCF),
        WeighterSpec("gaussian", f"{HERE}.weighters.gaussian:Gaussian", "centre prior", BLCF),
        WeighterSpec(
            "crow",
            f"{HERE}.weighters.crow:CroW",
            "summed activation of each cell, root of its normalised map",
            CROW,
            ("features",),
        ),
        WeighterSpec(
            "bms",
            f"{HERE}.weighters.bms:BMS",
            "Boolean Map Saliency: what is surrounded at many thresholds; no training",
            "Zhang & Sclaroff, 2013; 2016",
            ("image",),
        ),
        WeighterSpec(
            "salnet",
            f"{HERE}.weighters.salnet:SalNet",
            "SalNet: a deep network that predicts where people look",
            "Pan et al., Shallow and deep convolutional networks for saliency prediction, 2016",
            ("image",),
            trainer=f"{HERE}.training.salnet:SalNetTrainer",
        ),
        WeighterSpec(
            "salgan",
            f"{HERE}.weighters.salgan:SalGAN",
            "SalGAN: the same, trained against a discriminator",
            "Pan et al., SalGAN: visual saliency prediction with generative adversarial networks, 2017",
            ("image",),
            trainer=f"{HERE}.training.salgan:SalGANTrainer",
        ),
        WeighterSpec(
            "sam-vgg",
            f"{HERE}.weighters.sam:SamVGG",
            "SAM over a dilated VGG-16: predicts where people look, in several looks",
            SAM,
            ("image",),
        ),
        WeighterSpec(
            "sam-resnet", f"{HERE}.weighters.sam:SamResNet", "SAM over a dilated ResNet-50", SAM, ("image",)
        ),
        WeighterSpec(
            "msb",
            f"{HERE}.weighters.msb:MSB",
            "masks of a trained MSCNet's saliency block, one map each",
            MSCNET,
            ("features",),
        ),
        WeighterSpec(
            "maps",
            f"{HERE}.weighters.maps:Maps",
            "ready saliency maps of a folder: PNG, JPEG, NPY, MAT",
            BLCF,
        ),
        WeighterSpec(
            "itti-koch",
            f"{HERE}.weighters.itti_koch:IttiKoch",
            "saliency of intensity, colour and orientation contrasts at several scales",
            "Itti et al., 1998; Walther & Koch, 2006",
            ("image",),
        ),
        WeighterSpec(
            "fs",
            f"{HERE}.weighters.feature_saliency:FeatureSaliency",
            "feature saliency: cells where channels respond that rarely do",
            OBJECTS,
            ("features",),
        ),
        WeighterSpec(
            "os",
            f"{HERE}.weighters.object_saliency:ObjectSaliency",
            "object saliency: what is salient here and common in the collection; learnt from it",
            OBJECTS,
            ("features",),
        ),
        WeighterSpec(
            "l2norm", f"{HERE}.weighters.l2norm:L2Norm", "norm of the local feature", BLCF, ("features",)
        ),
    ]


@hookimpl
def instsearch_detectors() -> list[DetectorSpec]:
    """Regions that need no learning."""
    return [
        DetectorSpec("whole", f"{HERE}.detectors.whole:Whole", "one region: the picture"),
        DetectorSpec(
            "grid", f"{HERE}.detectors.grid:Grid", "R-MAC's squares at several sizes, evenly spread", RMAC
        ),
        DetectorSpec(
            "egm",
            f"{HERE}.detectors.egm:EGM",
            "rectangles around what is heavy on the weight map: expanding Gaussian mixture",
            OBJECTS,
            ("weights",),
        ),
        DetectorSpec(
            "dasr",
            f"{HERE}.detectors.dasr:DASR",
            "what made the peaks of a classifier's last map: excitation backprop, ellipse, box",
            DASR,
            ("image",),
        ),
        DetectorSpec(
            "dasr-star",
            f"{HERE}.detectors.dasr:DASRStar",
            "the same from every cell above the mean, less overlapping boxes",
            DASR,
            ("image",),
        ),
    ]


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
        ),
        EncoderSpec(
            "sum",
            f"{HERE}.encoders.sum_pooling:SumPooling",
            "weighted sum pooling, PCA-whitened",
            BLCF,
            READS,
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
    ]


@hookimpl
def instsearch_searchers() -> list[SearcherSpec]:
    """Exact and approximate search."""
    return [
        SearcherSpec(
            "inverted",
            f"{HERE}.searchers.inverted:Inverted",
            "exact, over a memory-mapped inverted file of sparse codes",
            "Sivic & Zisserman, 2003",
            ("codes",),
        ),
        SearcherSpec(
            "faiss",
            f"{HERE}.searchers.faiss_index:Faiss",
            "dense codes; exact, or any faiss index_factory string",
            "Johnson et al., 2019",
            ("codes",),
        ),
        SearcherSpec(
            "diffusion",
            f"{HERE}.searchers.diffusion:Diffusion",
            "dense codes; similarity diffused over the graph of mutual neighbours",
            "Iscen et al., 2017",
            ("codes",),
        ),
        SearcherSpec(
            "regional-diffusion",
            f"{HERE}.searchers.regional_diffusion:RegionalDiffusion",
            "diffusion with the setting for several regions an image: k = kq = 200",
            "Iscen et al., 2017",
            ("codes",),
        ),
        SearcherSpec(
            "offline-diffusion",
            f"{HERE}.searchers.offline_diffusion:OfflineDiffusion",
            "diffusion worked out beforehand: a query is a sum of a few sparse columns",
            "Yang et al., Efficient image retrieval via decoupling diffusion, AAAI 2019",
            ("codes",),
        ),
    ]


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
        ),
    ]


@hookimpl
def instsearch_datasets() -> list[DatasetSpec]:
    """Ground truth of one's own, and the field's collections."""
    oxford, paris = "Philbin et al., 2007", "Philbin et al., 2008"
    revisited = "Radenović et al., 2018"
    known = [
        ("manifest", "manifest:Manifest", "a JSON file naming images, queries, boxes and positives", ""),
        (
            "instre",
            "instre:Instre",
            "INSTRE: 1,250 queries over 27,293 images",
            "Wang & Jiang, 2015; Iscen et al., 2017",
        ),
        ("oxford5k", "oxford_paris:Oxford5k", "Oxford buildings: 55 queries over 5,062 images", oxford),
        ("paris6k", "oxford_paris:Paris6k", "Paris buildings: 55 queries over 6,392 images", paris),
        ("oxford105k", "oxford_paris:Oxford105k", "oxford5k among the distractors of Flickr100k", oxford),
        ("paris106k", "oxford_paris:Paris106k", "paris6k among the distractors of Flickr100k", paris),
        ("roxford5k", "revisited:ROxford5k", "revisited Oxford: easy, medium and hard", revisited),
        ("rparis6k", "revisited:RParis6k", "revisited Paris: easy, medium and hard", revisited),
        (
            "instance160",
            "instance:Instance160",
            "Instance-160: 160 queries over 11,885 frames of videos",
            "Zhan & Zhao, 2021",
        ),
        (
            "instance335",
            "instance:Instance335",
            "Instance-335: 335 queries over 40,914 frames of videos",
            "Xiao et al., 2020",
        ),
        (
            "holidays",
            "holidays:Holidays",
            "INRIA Holidays: 500 queries over 1,491 images",
            "Jégou et al., 2008",
        ),
    ]
    return [
        DatasetSpec(name, f"{HERE}.datasets.{factory}", summary, reference)
        for name, factory, summary, reference in known
    ]
