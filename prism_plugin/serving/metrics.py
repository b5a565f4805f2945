"""What ``/metrics`` says, for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


class Metrics:
    """One server's figures, in a ``registry`` of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        one: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("prism_requests", "Answers, by path and status", ["path", "status"], **one)
        self.seconds = Histogram("prism_request_seconds", "Whole requests", ["path"], buckets=SECONDS, **one)
        self.hung_up = Counter("prism_hung_up", "Requests whose client went before the answer", **one)
        self.tokens = Counter("prism_tokens", "Tokens written, revised, revised in vain", ["kind"], **one)
        self.passes = Counter("prism_forward_passes", "Forward passes of batches", **one)
        self.rows = Counter("prism_forward_rows", "Texts in these, so that rows / passes is the mean batch", **one)
        self.queued = Gauge("prism_queued_texts", "Texts that wait for a slot", **one)
        self.held = Gauge("prism_held_slots", "Texts that are being written", **one)
