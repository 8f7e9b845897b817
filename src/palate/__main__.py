"""`python -m palate` is `palate`."""

from palate.cli import main

if __name__ == "__main__":
    main()
