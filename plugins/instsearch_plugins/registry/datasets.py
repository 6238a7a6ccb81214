"""Datasets of this package."""

from __future__ import annotations

from instsearch_cli import DatasetSpec, hookimpl
from instsearch_plugins.registry.papers import HERE


@hookimpl
def instsearch_datasets() -> list[DatasetSpec]:
    """Ground truth of one's own, and the field's collections."""
    oxford, paris = "Philbin et al., 2007", "Philbin et al., 2008"
    revisited = "Radenović et al., 2018"
    known = [
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
    manifest = DatasetSpec(
        "manifest",
        f"{HERE}.datasets.manifest:Manifest",
        "a JSON file naming images, queries, boxes and positives",
        default_for=(".json",),
    )
    named = (
        DatasetSpec(name, f"{HERE}.datasets.{factory}", summary, reference)
        for name, factory, summary, reference in known
    )
    return [manifest, *named]
