"""The recipe of the captioner that ships."""
