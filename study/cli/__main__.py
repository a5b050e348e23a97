"""``python -m study.cli``: the command line."""

from study.cli.main import main

if __name__ == "__main__":
    main()
