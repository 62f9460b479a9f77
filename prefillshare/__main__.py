"""`python -m prefillshare` is `prefillshare`."""

from prefillshare.cli.app import main

if __name__ == "__main__":
    main()
