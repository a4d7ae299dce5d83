"""The jobs around the metrics: score, verify, compare, rank."""
