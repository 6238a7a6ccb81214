"""Where components are from, as their specs say it."""

from __future__ import annotations

HERE = "instsearch_plugins"
BLCF = "Mohedano et al., Saliency weighted convolutional features for instance search, 2018"
READS = ("features", "weights", "regions")
RMAC = "Tolias et al., 2016"
CROW = "Kalantidis et al., Cross-dimensional weighting, 2016"
SAM = "Cornia et al., Predicting human eye fixations via an LSTM-based saliency attentive model, 2018"
CAM = "Jiménez et al., Class-weighted convolutional features for visual instance search, BMVC 2017"
DASR = "Xiao et al., Deeply activated salient region for instance search, 2020"
DEEPVISION = "Salvador et al., Faster R-CNN features for instance search, CVPR workshops 2016"
MSCNET = "Xiang et al., Multiple saliency and channel sensitivity network, 2019"
OBJECTS = "Siméoni et al., Unsupervised object discovery for instance recognition, 2018"
PATCHIFY = "Choi et al., Patch-wise retrieval, WACV 2026"
WINDOWS = "Mohedano et al., Bags of local convolutional features for scalable instance search, ICMR 2016"
