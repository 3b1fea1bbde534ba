"""Run the explorer's server."""

import secrets
import socket
import threading
import webbrowser
from importlib.metadata import version
from urllib.parse import quote

import uvicorn

from ditf.config.params import Params
from ditf.errors import UserError
from ditf.explore.app import make_app
from ditf.explore.library import Explorer

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(params: Params, host: str, port: int, memory: int, open_browser: bool, token: str | None = None) -> None:
    """Serve the explorer until it is interrupted.

    Args:
        params: Parameters of the project, whose folder is the current one.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        memory: Largest total size in bytes of the features that are kept in memory.
        open_browser: Whether to open the page in a browser.
        token: Secret that requests must carry. By default a random one, or none on a loopback address.

    Raises:
        UserError: The address cannot be used.
    """
    if token is None and host not in LOOPBACK:
        token = secrets.token_urlsafe(16)
    app = make_app(Explorer(params, memory), version("ditf"), list(LOOPBACK), token)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"--host {host} --port {port}: cannot listen there ({reason.partition(' (')[0]})."
        raise UserError(f"{message} Choose another address or port.") from None
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={quote(token)}" if token else "")
    print(f"Explorer: {address}\nPress Ctrl-C to stop.", flush=True)
    if open_browser:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
