"""Addresses for display: they show where something is sent, without the secrets that give the right to send it."""

from urllib.parse import urlsplit

_PLAIN_PATH = ("osc",)  # schemes whose path is only a prefix of messages; in others it may be a webhook's secret


def without_secrets(address: str) -> str:
    """An address without user, password, path, query and fragment; text that is no URL (a file name) is unchanged."""
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
