"""Who may enter: a token in the address that the terminal shows, then a cookie of the browser.

127.0.0.1 belongs to every user of a machine and to every page in a browser. The token is new with
every start; a browser that came with it gets a cookie that no other site's page makes it send.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Iterable

_ID_BYTES = 9


class Entry:
    """The token of one running app. cookie: its name, with the port, for ports share cookies."""

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(32)
        self.cookie = f"captune-{port}"
        self._code: str | None = None
        self._lock = threading.Lock()

    def is_token(self, typed: str) -> bool:
        """Whether somebody knows the token."""
        return secrets.compare_digest(typed.encode(), self.token.encode())

    def new_code(self) -> str:
        """A code that lets one browser in, once."""
        with self._lock:
            self._code = secrets.token_urlsafe(32)
            return self._code

    def take_code(self, typed: str) -> bool:
        """Whether that is the code; it is none any more then."""
        with self._lock:
            if self._code is None or not secrets.compare_digest(
                typed.encode(), self._code.encode()
            ):
                return False
            self._code = None
            return True

    def new_cookie(self, *, is_secure: bool) -> str:
        """A Set-Cookie header for a browser that came with the token."""
        browser = secrets.token_urlsafe(_ID_BYTES)
        secure = "; Secure" if is_secure else ""
        value = f"{browser}.{self._seal(browser)}"
        return f"{self.cookie}={value}; Path=/; HttpOnly; SameSite=Strict{secure}"

    def browser_of(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The id of the browser whose cookie a request carries, or None without a true one."""
        for name, value in headers:
            if name != b"cookie":
                continue
            for pair in value.decode("latin-1").split(";"):
                key, _, content = pair.strip().partition("=")
                browser, _, seal = content.partition(".")
                if key == self.cookie and secrets.compare_digest(
                    seal.encode(), self._seal(browser).encode()
                ):
                    return browser
        return None

    def _seal(self, browser: str) -> str:
        return hmac.new(self.token.encode(), browser.encode(), hashlib.sha256).hexdigest()
