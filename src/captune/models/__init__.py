"""A model spec -> weights, preprocessing, tokenizer and content hash as one value."""
