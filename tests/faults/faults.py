"""Every kind of fault, in the order of the table."""

from __future__ import annotations

import signal
from collections.abc import Callable

from app.pause import Point
from tests.faults.kinds import broker, database, disk, killed, stopped, uploads, work
from tests.faults.rounds import Fault

KINDS: tuple[Callable[[], Fault], ...] = (
    work.Undisturbed,
    lambda: killed.KillAt(Point.CLAIMED, "kill -9 after the claim"),
    lambda: killed.KillAt(Point.CHECKING, "kill -9 in parse"),
    lambda: killed.KillAt(Point.COPYING, "kill -9 in COPY"),
    lambda: killed.KillAt(Point.COMMITTING, "kill -9 before the commit"),
    lambda: killed.KillAt(Point.COMMITTED, "kill -9 after the commit, before the ack"),
    killed.KillInReconciler,
    lambda: killed.KillBusy("kill -9 of a busy child", whole=False),
    lambda: killed.KillBusy("kill -9 of a busy worker", whole=True),
    lambda: stopped.StopPastLease(Point.CHECKING, "SIGSTOP past the lease in parse, then CONT"),
    lambda: stopped.StopPastLease(Point.COPYING, "SIGSTOP past the lease in COPY, then CONT"),
    lambda: stopped.StopPastLease(Point.COMMITTING, "SIGSTOP past the lease before the commit, then CONT"),
    stopped.WakeBeside,
    killed.OutOfMemory,
    killed.Poison,
    broker.BrokerWiped,
    broker.BrokerDown,
    broker.BrokerHung,
    broker.BrokerFull,
    broker.WorkerStartsAtFull,
    broker.BrokerNeverBack,
    lambda: database.StopDatabase(signal.SIGQUIT, "PostgreSQL stopped immediately in COPY"),
    lambda: database.StopDatabase(signal.SIGINT, "PostgreSQL restarted in COPY"),
    database.EndBackend,
    database.NoConnections,
    database.RowDropped,
    disk.FullAtUpload,
    disk.ShortWriteAtUpload,
    disk.FullInSpool,
    disk.ShortWriteInSpool,
    work.ManyMessages,
    uploads.SameFileAtOnce,
    lambda: work.SkewedClock("worker clock 2 h ahead", work.SKEW_HOURS),
    lambda: work.SkewedClock("worker clock 2 h behind", -work.SKEW_HOURS),
    work.BeatDead,
    work.TwoBeats,
    uploads.SlowDrip,
    uploads.ClientGone,
    lambda: uploads.BlobSpoilt("blob missing", missing=True),
    lambda: uploads.BlobSpoilt("blob altered", missing=False),
    uploads.UploadBesideCollector,
    lambda: killed.KillWeb(Point.ARRIVED, "kill -9 of the web server, file arrived"),
    lambda: killed.KillWeb(Point.KEPT, "kill -9 of the web server, blob kept"),
    lambda: killed.KillWeb(Point.RECEIVED, "kill -9 of the web server, batch made"),
    work.RollingRestart,
    work.Overlapping,
)
