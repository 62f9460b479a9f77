"""`python -m prefillshare` is `prefillshare`."""

from prefillshare.cli.main import main

if __name__ == "__main__":
    main()
