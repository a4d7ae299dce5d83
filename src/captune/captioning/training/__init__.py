"""A captioner learns: data, objective, steps, what came of it, and its run folder.

step.py says what a step is. Around it, trainer.py has the schedule of the rate, the clipping of
gradients, resuming and stopping early; rates.py each part's share of the rate; batches.py the order
of the captions, by the seed; validation.py the scores that choose the epoch.
"""
