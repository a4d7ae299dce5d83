"""Maps for the words of a caption and for a class: where on the photo a model found them."""
