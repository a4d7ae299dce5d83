"""Maps for the words of a caption and for a class: what of the image a model used for them."""
