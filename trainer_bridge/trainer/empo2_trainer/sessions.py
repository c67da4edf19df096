"""The clients' sessions: which of them still send heartbeats.

Silence is counted in ticks of the watcher, not in seconds: while this process was stopped, no
heartbeat could arrive, and no tick passed either.
"""

TICK_SECONDS = 30.0
SILENT_TICKS = 10  # five minutes; clients send a heartbeat every few seconds


class Sessions:
    """The sessions that are open. quiet has the ticks since each was last heard of."""

    def __init__(self) -> None:
        self.quiet: dict[str, int] = {}

    def heard(self, session: str) -> None:
        """Open a session, or note that its client lives."""
        self.quiet[session] = 0

    def heard_if_known(self, session: str) -> None:
        """Note that the client of a session lives, if the session is open."""
        if session in self.quiet:
            self.heard(session)

    def tick(self) -> list[str]:
        """Count a tick. Returns the sessions that it ends."""
        for session in self.quiet:
            self.quiet[session] += 1
        ended = [s for s, ticks in self.quiet.items() if ticks > SILENT_TICKS]
        for session in ended:
            del self.quiet[session]
        return ended


def session_of(name: str) -> str:
    """The session in the name of a model or of a request."""
    return name.split(":", 1)[0]
