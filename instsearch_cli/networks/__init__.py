"""Networks: their weights, importing published ones, training."""
