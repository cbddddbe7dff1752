"""The entry point under its usual name: `moduv` and `python -m moduv.cli`."""

from moduv.commands.cli import main

if __name__ == "__main__":
    main()
