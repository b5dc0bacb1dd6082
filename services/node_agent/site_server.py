"""Serves the site API in a thread of its own, and says in `site.json` where and with which token."""

import secrets
import socket
import threading
from collections.abc import Callable

import uvicorn

from hsl_model.protocol.manifest import canonical_json
from node_agent.private_files import write_private
from node_agent.site_api import Site, SiteFile, create_site_app


class SiteServer:
    """uvicorn in a thread of its own, on a socket bound before `site.json` is written."""

    def __init__(self, make_site: Callable[[str], Site]) -> None:
        site = make_site(secrets.token_urlsafe(32))
        settings = site.context.settings
        self._socket = socket.create_server((settings.site_host, settings.site_port))
        host, port = self._socket.getsockname()[:2]
        config = uvicorn.Config(create_site_app(site), log_level="warning", access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="site-api", daemon=True
        )
        self._file = settings.site_file
        self._content = canonical_json(SiteFile(url=f"http://{host}:{port}", token=site.token))

    def start(self) -> None:
        self._thread.start()
        write_private(self._file, self._content)

    def stop(self) -> None:
        """Within a second or two: requests under way are answered, then the socket is closed."""
        self._file.unlink(missing_ok=True)
        self._server.should_exit = True
        self._thread.join(timeout=5.0)
        self._socket.close()
