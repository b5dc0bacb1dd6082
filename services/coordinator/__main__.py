"""`python -m coordinator`: settings from the environment, then serve."""

import os
import sys

from pydantic import ValidationError

from coordinator.settings import CoordinatorSettings, explain


def main() -> None:
    try:
        settings = CoordinatorSettings(_secrets_dir=os.environ.get("HSL_SECRETS_FOLDER"))
    except ValidationError as error:
        sys.stderr.write(explain(error) + "\n")
        sys.exit(2)
    from coordinator.main import serve

    serve(settings)


if __name__ == "__main__":
    main()
