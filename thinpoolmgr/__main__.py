"""`python -m thinpoolmgr`."""

from thinpoolmgr.cli.main import main

if __name__ == "__main__":
    main()
