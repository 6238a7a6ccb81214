"""Detectors: features, weights or the picture -> regions."""
