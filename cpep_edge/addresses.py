"""Addresses as they may be shown: where something goes, and not what gives the right to send it there."""

from urllib.parse import urlsplit

_PLAIN_PATH = ("osc",)  # whose path is a prefix of messages; elsewhere it may be the secret of a hook


def without_secrets(address: str) -> str:
    """An address without user, password, path, query and fragment; names of files and the like stay as they are."""
    if "://" not in address:
        return address
    scheme = address.partition("://")[0]
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return f"{scheme}://..."
    host = f"[{host}]" if ":" in host else host
    path = parts.path if parts.scheme in _PLAIN_PATH else ""
    hidden = "/..." if (parts.path.strip("/") and not path) or parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{port}{path}{hidden}"
