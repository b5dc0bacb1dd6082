"""`python -m tests.crash`: see `campaign.py`. A planted bug is planted before anything of the product is imported."""

import os
import sys

if __name__ == "__main__":
    if os.environ.get("PLANTED_BUG"):
        from tests.planted.plant import plant_from_environment

        plant_from_environment()
    from tests.crash.campaign import main

    sys.exit(main())
