"""How the weights that ship were made: run once per release, from a checkout."""
