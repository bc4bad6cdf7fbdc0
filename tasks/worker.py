"""Composition root of Celery's processes: ``celery -A tasks.worker worker | beat | flower``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import warnings
from typing import Any

import structlog
from celery import signals
from celery.apps import worker as celery_worker
from celery.exceptions import SecurityWarning

from app import logs, pause
from app.settings import Settings
from app.store.database import prepare_to_fork
from monitoring.tally import Tally
from tasks import process
from tasks.app import GRACE_SECONDS, configure
from tasks.reconciler import Reconciler, hand_over, sign_off

log = structlog.get_logger()

_PR_SET_PDEATHSIG = 1

# Celery warns root of pickled messages; these are JSON, and hold an id each.
warnings.filterwarnings(
    "ignore", message=r"\s*You're running the worker with superuser privileges", category=SecurityWarning
)

settings = Settings.load()
logs.configure(settings.env)
pause.use(settings.pause_folder)
process.begin(settings)
app = configure(settings)
app.steps["worker"].add(Reconciler)
prepare_to_fork()


@signals.setup_logging.connect(weak=False)
def _keep_logging_as_it_is(**_: Any) -> None:
    """Celery leaves logging alone when somebody answers this signal."""


def _say_in_json(text: str, _: Any = None) -> None:
    """Celery's words on shutdown, from a signal's handler, in which logging might wait for itself."""
    os.write(sys.stderr.fileno(), logs.line(text.strip(), logger="celery.apps.worker").encode())


celery_worker.safe_say = _say_in_json


@signals.worker_init.connect(weak=False)
def _count(**_: Any) -> None:
    """Before the pool forks: its children tell what they have done through a pipe that they inherit."""
    tally = Tally()
    process.count_with(tally)
    tally.serve(settings.worker_metrics)

    @signals.worker_process_init.connect(weak=False)
    def _leave_to_the_main_process(**_: Any) -> None:
        tally.leave_to_the_main_process()


@signals.worker_process_init.connect(weak=False)
def _die_with_the_worker(**_: Any) -> None:
    """A pool child whose worker was killed would go on unseen, with nobody to recycle it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@signals.worker_shutting_down.connect(weak=False)
def _hand_over_in_time(**_: Any) -> None:
    """Let running batches end for a while, then return their leases, so that another worker takes them over at once."""
    timer = threading.Timer(GRACE_SECONDS, hand_over)
    timer.daemon = True
    timer.start()


@signals.worker_shutdown.connect(weak=False)
def _sign_off(**_: Any) -> None:
    sign_off()
    process.close()


@signals.worker_process_shutdown.connect(weak=False)
def _close(**_: Any) -> None:
    process.close()


@signals.beat_init.connect(weak=False)
def _tell_that_beat_is_ready(**_: Any) -> None:
    process.tell_that_it_is_ready()
