"""The door of the command `fleetflow`, and of `python -m fleetflow`: as little as can be before the imports."""

from models.lasting import lasting


def main() -> None:
    """The entry point."""
    with lasting():
        from fleetflow.main import main as run
    run()


if __name__ == "__main__":
    main()
