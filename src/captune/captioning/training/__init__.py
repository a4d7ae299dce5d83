"""A captioner learns: data, objective, steps, what came of it, and its run folder."""
