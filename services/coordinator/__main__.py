"""`python -m coordinator`: settings from the environment, then serve."""

import sys

from pydantic import ValidationError

from coordinator.settings import CoordinatorSettings, explain


def main() -> None:
    try:
        settings = CoordinatorSettings()
    except ValidationError as error:
        sys.stderr.write(explain(error) + "\n")
        sys.exit(2)
    from coordinator.main import serve

    serve(settings)


if __name__ == "__main__":
    main()
