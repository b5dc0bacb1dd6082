"""`python -m embedded_hub`: configured by environment variables `HSL_HUB_*` and by secrets in `HSL_SECRETS_FOLDER`."""

import os

from embedded_hub.main import serve
from embedded_hub.settings import HubSettings

if __name__ == "__main__":
    serve(HubSettings(_secrets_dir=os.environ.get("HSL_SECRETS_FOLDER")))
