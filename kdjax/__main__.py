"""`python -m kdjax`: the command `kdjax` where its script is not on the path."""

from kdjax import commands

if __name__ == "__main__":
    commands.main()
