"""A published study step by step: which commands, which of them are done, how long it takes."""
