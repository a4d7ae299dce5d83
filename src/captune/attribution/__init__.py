"""Maps for the words of a caption and for a class: where on the image a model found them."""
