"""`python -m embedded_hub`: configured by environment variables `HSL_HUB_*`."""

from embedded_hub.main import serve
from embedded_hub.settings import HubSettings

if __name__ == "__main__":
    serve(HubSettings())
