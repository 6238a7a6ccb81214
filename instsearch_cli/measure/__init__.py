"""How good a pipeline is: datasets, metrics, papers' tables."""
