"""Who gets which message: subscriptions of all connections, by destination name."""

from __future__ import annotations

from typing import Final, Protocol

from pyatm.vdsm.stomp import Frame

REQUEST_QUEUES: Final = ("jms.topic.vdsm_requests", "jms.topic.vdsm_irs_requests")
RESPONSES: Final = "jms.topic.vdsm_responses"


class Subscriber(Protocol):
    """A connection, as far as messages go."""

    def send(self, frame: Frame) -> None: ...


def is_request_queue(destination: str) -> bool:
    """Whether VDSM takes what is sent there for a request; any suffix after a dot is allowed."""
    return any(
        destination == queue or destination.startswith(queue + ".") for queue in REQUEST_QUEUES
    )


class Broker:
    """Routes a message to every subscription of its destination, at the moment it is made."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, dict[tuple[Subscriber, str], None]] = {}

    def subscribe(self, subscriber: Subscriber, subscription_id: str, destination: str) -> None:
        self._subscriptions.setdefault(destination, {})[subscriber, subscription_id] = None

    def unsubscribe(self, subscriber: Subscriber, subscription_id: str, destination: str) -> None:
        entries = self._subscriptions.get(destination, {})
        entries.pop((subscriber, subscription_id), None)
        if not entries:
            self._subscriptions.pop(destination, None)

    def publish(self, destination: str, body: bytes) -> int:
        """Send ``body`` to all subscriptions; returns to how many. Without one it is lost."""
        entries = list(self._subscriptions.get(destination, {}))
        for subscriber, subscription_id in entries:
            subscriber.send(
                Frame(
                    "MESSAGE",
                    (
                        ("destination", destination),
                        ("content-type", "application/json"),
                        ("subscription", subscription_id),
                    ),
                    body,
                )
            )
        return len(entries)
