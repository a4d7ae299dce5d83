"""`python -m captune`."""

from captune.cli import program

if __name__ == "__main__":
    program()
