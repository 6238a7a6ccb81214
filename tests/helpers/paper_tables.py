"""A file of a paper's tables."""

from __future__ import annotations

FILE = """
paper = "p"
title = "A paper"
[pipeline.extractor]
name = "vgg16"
max-size = 340
[pipeline.encoder]
name = "blcf"
[[table]]
number = "2"
title = "t"
metric = "mAP"
datasets = ["a", "b"]
[[table.row]]
name = "one"
weighting = "gaussian"
set = ["extractor.layer=features.30", "encoder.words=7"]
rerank = ["aqe"]
reported = [0.5, nan]
"""
