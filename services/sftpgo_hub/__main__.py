"""`python -m sftpgo_hub`: configured by environment variables `HSL_HUB_*`."""

from sftpgo_hub.main import serve
from sftpgo_hub.settings import HubSettings

if __name__ == "__main__":
    serve(HubSettings())
