"""Who may look: a link that works once becomes a session, and a session that is not used ends.

Knows no HTTP and no disk: whatever is here ends with the process. Only digests are kept, so that looking a secret up takes as long
whatever was guessed.
"""

import hashlib
import secrets
import time
from collections.abc import Callable

LINK_S = 15 * 60.0
"""A link that nobody followed for so long has ended."""

IDLE_S = 60 * 60.0
"""A session ends when the person has done nothing for so long, also while a page of it is open."""

_SECRET_BYTES = 32


class Sessions:
    """Links and sessions of one dashboard. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._links: dict[str, float] = {}
        self._used: dict[str, float] = {}

    def invite(self) -> str:
        """A new secret for a link; it lets one session in, within LINK_S."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        self._links[_digest(secret)] = self._clock()
        return secret

    def enter(self, secret: str) -> str | None:
        """A new session's secret for a link's, which is used up by that; None where there is no such link any more."""
        made_at = self._links.pop(_digest(secret), None)
        if made_at is None or self._clock() - made_at > LINK_S:
            return None
        session = secrets.token_urlsafe(_SECRET_BYTES)
        self._used[_digest(session)] = self._clock()
        return session

    def lasts(self, session: str, used: bool = False) -> bool:
        """Whether there is such a session. used: the person does something now, so that it lasts longer."""
        name = _digest(session)
        if self._clock() - self._used.get(name, float("-inf")) > IDLE_S:
            self._used.pop(name, None)
            return False
        if used:
            self._used[name] = self._clock()
        return True

    def leave(self, session: str) -> None:
        """End a session."""
        self._used.pop(_digest(session), None)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
