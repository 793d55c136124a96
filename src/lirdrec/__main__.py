"""`python -m lirdrec` is the `lirdrec` command."""

from lirdrec.cli.main import main

if __name__ == "__main__":
    main()
