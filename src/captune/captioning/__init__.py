"""Captioning: a frozen image encoder, a trained bridge, a frozen decoder and a tuning method."""
