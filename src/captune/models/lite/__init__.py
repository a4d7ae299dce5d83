"""The embedded default: two frozen backbones, joined by captune's alignment; a small decoder."""
