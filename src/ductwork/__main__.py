"""`python -m ductwork`: the command where only the package is on the path."""

from ductwork.cli.main import main

if __name__ == "__main__":
    main()
