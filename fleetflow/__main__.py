"""The door of the command `fleetflow`, and of `python -m fleetflow`: as little as can be before the imports."""

import gc


def main() -> None:
    """The entry point."""
    gc.disable()  # what is imported stays: to look for garbage in it takes a tenth of the start, and as much of the end
    from fleetflow.main import main as run

    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
