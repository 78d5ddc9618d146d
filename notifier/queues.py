"""The broker: tasks that name work lying in PostgreSQL.

A task may be lost, doubled or late without harm: leases in the database decide who works, and the
sweep enqueues again whatever lies ready while its queue is empty. So nothing here retries for long
and a broker that is down never fails the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import redis
import structlog
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from notifier.states import Lane

LANES = tuple(Lane)
HOUSEKEEPING = "housekeeping"
WEBHOOKS = "webhooks"

DELIVER = "notifier.deliver"
GATHER = "notifier.gather"
NOTIFY = "notifier.webhooks"

# The header of a task that names the requests which caused it, and how many of them.
REQUESTS = "requests"
MAX_REQUESTS = 20

log = structlog.get_logger(__name__)


def deliver_queue(lane: str) -> str:
    """Return the name of the queue whose tasks each deliver one batch of `lane`."""
    return f"deliver.{lane}"


QUEUES = (*(deliver_queue(lane) for lane in LANES), HOUSEKEEPING, WEBHOOKS)


def make_app(broker_url: str | None) -> Celery:
    """Return the Celery application.

    One configuration serves workers, beat and everybody who only sends.
    """
    app = Celery("notifier", broker=broker_url, set_as_current=True)
    app.conf.update(
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        # All queues use the default exchange: its messages go to the list named by the routing key,
        # so a broker that lost its data needs no binding to be declared again before tasks reach a
        # worker.
        task_queues=[Queue(name, Exchange("", type="direct"), routing_key=name) for name in QUEUES],
        task_default_queue=HOUSEKEEPING,
        task_default_exchange="",
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        # Acknowledged when taken: a dead worker's batch comes back by its lease, sooner than by the
        # broker's visibility timeout.
        task_acks_late=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_timeout": 30,
            "socket_connect_timeout": 3,
            "health_check_interval": 15,
            "socket_keepalive": True,
            # Whoever enqueues gives up at once when the broker is down: the sweep enqueues again.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.1,
        },
        task_publish_retry=False,
        timezone="UTC",
        enable_utc=True,
    )
    return app


class Queues:
    """Enqueues tasks; safe to share between threads."""

    def __init__(self, app: Celery) -> None:
        """Use the connections of `app`."""
        self._app = app
        self._lock = threading.Lock()
        self._pending: dict[str, threading.Timer] = {}
        self._requests: dict[str, set[str]] = {}

    def _send(
        self,
        task: str,
        calls: Iterable[tuple[Any, ...]],
        queue: str,
        headers: dict[str, str] | None = None,
    ) -> bool:
        try:
            with self._app.producer_pool.acquire(block=True, timeout=2) as producer:
                for args in calls:
                    self._app.send_task(
                        task,
                        args=args,
                        queue=queue,
                        producer=producer,
                        retry=False,
                        headers=headers,
                    )
        except (OperationalError, redis.RedisError, OSError) as error:
            log.warning("enqueue_failed", task=task, queue=queue, error=type(error).__name__)
            return False
        return True

    def enqueue_batches(self, lane: str, batch_ids: Iterable[int]) -> bool:
        """Ask the workers of `lane` to deliver these batches.

        False when the broker did not take it (the sweep will).
        """
        return self._send(DELIVER, ((batch_id,) for batch_id in batch_ids), deliver_queue(lane))

    def enqueue_gather(self, lane: str, *, requests: Iterable[str] = ()) -> bool:
        """Ask a worker of `lane` to gather single messages that wait without a batch.

        The ids of the `requests` that caused it, a few of them, travel in the task's header of that
        name.
        """
        named = ",".join(sorted(requests)[:MAX_REQUESTS])
        return self._send(
            GATHER, ((lane,),), deliver_queue(lane), {REQUESTS: named} if named else None
        )

    def enqueue_gather_soon(
        self, lane: str, *, requests: Iterable[str] = (), delay: float = 0.02
    ) -> None:
        """Do as `enqueue_gather`, once for all calls within `delay` seconds.

        A thousand single messages need one task.
        """
        with self._lock:
            self._requests.setdefault(lane, set()).update(requests)
            if lane in self._pending:
                return

            def fire() -> None:
                with self._lock:
                    del self._pending[lane]
                    caused = self._requests.pop(lane, set())
                self.enqueue_gather(lane, requests=caused)

            timer = self._pending[lane] = threading.Timer(delay, fire)
            timer.daemon = True
            timer.start()

    def enqueue_webhooks(self, key_ids: Iterable[int]) -> bool:
        """Ask a worker to tell the receivers of these keys what is due.

        False when the broker did not take it (the sweep will).
        """
        return self._send(NOTIFY, ((key_id,) for key_id in key_ids), WEBHOOKS)

    def depth(self, queue: str) -> int | None:
        """Return how many tasks wait in `queue`, or None when the broker does not answer."""
        try:
            with self._app.connection_for_write() as connection:
                # Declaring a queue that exists tells its length, on every broker alike.
                channel: Any = connection.default_channel
                return int(channel.queue_declare(queue).message_count)
        except (OperationalError, redis.RedisError, OSError):
            return None
