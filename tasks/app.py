"""The Celery application, unconfigured until a composition root gives it settings; safe to import anywhere."""

from __future__ import annotations

from celery import Celery
from kombu.entity import Queue

from app.batch import PRIORITIES
from app.settings import Settings

WATCH_QUEUE = "watch"
QUEUES = (WATCH_QUEUE, *PRIORITIES)
"""Every worker serves them all, the first ones first."""

_SOCKET_TIMEOUT_SECONDS = 2
_VISIBILITY_TIMEOUT_SECONDS = 6 * 3600
_BEAT_LOOP_SECONDS = 5
GRACE_SECONDS = 8
"""On shutdown a running batch has this long to end before it is handed over."""

app = Celery(
    "dragonfly", include=["tasks.ingest", "tasks.housekeeping", "tasks.canary"], task_cls="tasks.failure:ReticentTask"
)


def configure(settings: Settings) -> Celery:
    """Give the application its broker and its rules; returns it. Raises SettingsError where there is no broker.

    Messages are hints: JSON, ids only, no results. A hint that is lost, doubled or late does no harm, so nothing here
    tries to make delivery exact; the lease and the fence do that.
    """
    app.conf.update(
        broker_url=settings.require_redis_url(),
        broker_transport_options={
            # Without these a hung broker blocks whoever speaks to it, for ever.
            "socket_timeout": _SOCKET_TIMEOUT_SECONDS,
            "socket_connect_timeout": _SOCKET_TIMEOUT_SECONDS,
            "socket_keepalive": True,
            "retry_on_timeout": False,
            # Far above the lease: a redelivered hint finds its batch long since claimed, and returns.
            "visibility_timeout": _VISIBILITY_TIMEOUT_SECONDS,
            "queue_order_strategy": "priority",
        },
        broker_connection_timeout=_SOCKET_TIMEOUT_SECONDS,
        broker_connection_retry_on_startup=True,
        # The default gives up after 100 tries, and the worker with it.
        broker_connection_max_retries=None,
        # A broker that is full refuses what a worker writes as it connects: without this the worker ends.
        broker_channel_error_retry=True,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        event_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_publish_retry=False,
        task_create_missing_queues=False,
        task_queues=[Queue(name, routing_key=name) for name in QUEUES],
        task_default_queue="normal",
        task_default_routing_key="normal",
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_max_memory_per_child=settings.worker_memory_kib,
        worker_soft_shutdown_timeout=GRACE_SECONDS,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        timezone="UTC",
        enable_utc=True,
        # Each turn of beat's loop is a sign of life.
        beat_max_loop_interval=_BEAT_LOOP_SECONDS,
        beat_scheduler="tasks.schedule:SingleScheduler",
        beat_schedule=_SCHEDULE,
    )
    return app


_SCHEDULE = {
    "collect-leftovers": {
        "task": "dragonfly.collect_leftovers",
        "schedule": 3600.0,
        "options": {"queue": WATCH_QUEUE, "expires": 3600},
    },
    "forget-gone-workers": {
        "task": "dragonfly.forget_gone_workers",
        "schedule": 3600.0,
        "options": {"queue": WATCH_QUEUE, "expires": 3600},
    },
}
