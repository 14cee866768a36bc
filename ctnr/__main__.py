"""`python -m ctnr`: what the launcher script does, with an interpreter of the caller's choice."""

from ctnr.cli.main import entry

if __name__ == "__main__":
    entry()
