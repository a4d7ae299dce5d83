"""The recipe of the alignment of `lite`."""
