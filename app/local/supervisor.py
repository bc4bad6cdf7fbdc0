"""The supervisor: starts children when what they need is ready, starts them again when they die, stops them in reverse."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from app.local import LocalStackError
from app.local.console import Console
from app.local.life import Life
from app.local.process import last_error

_TICK_SECONDS = 0.05
_LAST_WORDS = 10
_STILL_STARTING_SECONDS = 15
_HURRY_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class Child:
    """A program to keep running.

    ``ready`` is asked from a thread, again and again, until it first says yes. ``needs`` are the names of children and
    steps that must be ready before the first start; later each keeps itself connected. ``before_start`` runs in the main
    thread before every start. A child that is not ``vital`` and cannot be kept up degrades the stack, any other stops it.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    ready: Callable[[], bool]
    needs: tuple[str, ...] = ()
    before_start: Callable[[], None] = lambda: None
    explain: Callable[[Sequence[str]], str] | None = None
    input_text: str | None = None
    vital: bool = True
    start_seconds: float = 60
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 30
    hurry_signal: signal.Signals = signal.SIGKILL
    """Sent when the person who stops the stack asks a second time."""
    death_signal: signal.Signals = signal.SIGKILL
    """Sent by the kernel when the supervisor itself is killed."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something done once, in a thread, between the children it needs and those that need it, such as migrations."""

    name: str
    run: Callable[[], None]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How long to wait before a start again, in seconds, and when a child counts as one that cannot be kept up."""

    first_delay: float = 0.5
    longest_delay: float = 15
    deaths: int = 5
    within: float = 60
    first_start_deaths: int = 3
    """Deaths before it was ready for the first time, after which there is no point in going on."""

    def delay(self, deaths: int) -> float:
        """The wait after so many recent deaths: it doubles up to the longest."""
        return float(min(self.first_delay * 2 ** (deaths - 1), self.longest_delay))


@dataclass
class _Post:
    """A child's place in the stack, across its lives."""

    child: Child
    life: Life | None = None
    start_at: float = 0
    deaths: deque[float] = field(default_factory=deque)
    was_ready: bool = False
    ready_said: bool = False
    degraded: bool = False
    still_starting_at: float = 0

    @property
    def up(self) -> bool:
        return self.life is not None and self.life.ready


class _StopStackError(Exception):
    """A child cannot be kept up; the message is the sentence for the person."""


class Supervisor:
    """Runs ``children`` (in starting order) and ``steps`` until told to stop; one per process, in the main thread."""

    def __init__(
        self,
        children: Sequence[Child],
        steps: Sequence[Step] = (),
        *,
        console: Console,
        policy: RestartPolicy | None = None,
    ) -> None:
        self._posts = [_Post(child) for child in children]
        self._steps = {step.name: step for step in steps}
        self._done: set[str] = set()
        self._running_steps: dict[str, list[BaseException | None]] = {}
        self._console = console
        self._policy = policy or RestartPolicy()
        self._signals: list[int] = []

    def run(self, on_ready: Callable[[], None] = lambda: None) -> int:
        """Start everything, call ``on_ready`` once when all is ready, keep it up, and stop it in reverse order.

        Returns 0 after SIGINT, SIGTERM or SIGHUP, and 1 after a child could not be kept up. Raises LocalStackError where
        the stack never became ready. Whatever happens, no child is left running.
        """
        numbers = [signal.SIGINT, signal.SIGTERM]
        # nohup means to outlive the terminal.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        ready = False
        try:
            while not self._signals:
                self._tick(time.monotonic())
                if not ready and self._all_ready():
                    ready = True
                    on_ready()
                time.sleep(_TICK_SECONDS)
            self._say("stopping; once more to hurry")
        except _StopStackError as problem:
            if not ready:
                raise LocalStackError(str(problem)) from None
            self._say(str(problem))
            return 1
        finally:
            self._stop_all()
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0

    def pids(self) -> Mapping[str, int]:
        """The process ids of the children that run now."""
        return {post.child.name: post.life.pid for post in self._posts if post.life is not None}

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _say(self, text: str) -> None:
        self._console.say("up", text)

    def _tick(self, now: float) -> None:
        self._tend_steps()
        for post in self._posts:
            if post.life is None:
                if now >= post.start_at and self._available(post.child.needs):
                    self._start(post, now)
            elif post.life.ended:
                self._bury(post, now)
            elif post.life.ready:
                self._greet(post, now)
            else:
                self._watch_start(post, now)

    def _available(self, needs: Sequence[str]) -> bool:
        """Whether a start may go ahead: what it needs was ready once, or is known to be missing for now."""
        usable = {post.child.name for post in self._posts if post.was_ready or post.degraded}
        return all(name in usable or name in self._done for name in needs)

    def _all_ready(self) -> bool:
        return len(self._done) == len(self._steps) and all(post.up or post.degraded for post in self._posts)

    def _tend_steps(self) -> None:
        for name, step in self._steps.items():
            if name in self._done:
                continue
            outcome = self._running_steps.get(name)
            if outcome is None:
                if self._available(step.needs):
                    self._running_steps[name] = outcome = []
                    threading.Thread(target=_run_step, args=(step, outcome), daemon=True).start()
            elif outcome:
                problem = outcome[0]
                if isinstance(problem, LocalStackError):
                    raise _StopStackError(str(problem))
                if problem is not None:
                    # Its text may hold data; the caller's last resort shows kind and place.
                    raise problem
                self._done.add(name)

    def _start(self, post: _Post, now: float) -> None:
        child = post.child
        post.ready_said = False
        post.still_starting_at = now + _STILL_STARTING_SECONDS
        try:
            child.before_start()
        except (LocalStackError, OSError) as problem:
            self._died(post, now, str(problem), [str(problem)])
            return
        post.life = Life(
            child.command,
            env=child.env,
            input_text=child.input_text,
            death_signal=child.death_signal,
            ready=child.ready,
            on_line=lambda line: self._console.say(child.name, line),
        )

    def _greet(self, post: _Post, now: float) -> None:
        if not post.ready_said:
            post.ready_said = post.was_ready = True
            if post.deaths:
                self._say(f"{post.child.name} is up again")
        if post.degraded and now - post.deaths[-1] > self._policy.within:
            post.degraded = False
            post.deaths.clear()
            self._say(f"{post.child.name} stays up; the stack is whole again")

    def _watch_start(self, post: _Post, now: float) -> None:
        if post.life is None:
            return
        if post.life.age > post.child.start_seconds:
            self._say(f"{post.child.name} is not ready after {post.child.start_seconds:g} s; ending it")
            post.life.end(signal.SIGKILL, within=_HURRY_SECONDS)
        elif now > post.still_starting_at:
            post.still_starting_at = now + _STILL_STARTING_SECONDS
            self._say(f"{post.child.name} is still starting ({post.life.age:.0f} s)")

    def _bury(self, post: _Post, now: float) -> None:
        if post.life is None:
            return
        life, post.life = post.life, None
        life.end(signal.SIGKILL, within=_HURRY_SECONDS)
        self._died(post, now, f"it {life.how_it_ended()}", life.last_lines)

    def _died(self, post: _Post, now: float, how: str, lines: Sequence[str]) -> None:
        """Decide what follows a death: another start after a wait, a degraded stack, or the end."""
        name, policy = post.child.name, self._policy
        post.deaths.append(now)
        while now - post.deaths[0] > policy.within:
            post.deaths.popleft()
        count = len(post.deaths)
        hopeless = count >= (policy.deaths if post.was_ready else policy.first_start_deaths)
        # Without what it needs a child may well be unable to run; that one's own fate decides.
        alone = all(other.up for other in self._posts if other.child.name in post.child.needs)
        if hopeless and post.child.vital and alone:
            words = post.child.explain(lines) if post.child.explain else last_error(lines)
            for line in lines[-_LAST_WORDS:]:
                self._say(f"{name} said: {line}")
            raise _StopStackError(f"{name} cannot be kept up, it died {count} times: {words}")
        delay = policy.longest_delay if hopeless else policy.delay(count)
        post.start_at = now + delay
        if hopeless and not post.child.vital and not post.degraded:
            post.degraded = True
            self._say(f"{name} cannot be kept up, it died {count} times; the stack goes on without it, degraded")
        self._say(f"{name} died: {how}; starting it again in {delay:g} s")

    def _stop_all(self) -> None:
        """Stop in reverse order, each before the next; a signal beyond the first hurries whatever still runs."""
        asked = len(self._signals)
        for post in reversed(self._posts):
            life, post.life = post.life, None
            if life is None:
                continue
            life.ask(post.child.stop_signal)
            deadline = time.monotonic() + post.child.stop_seconds
            while not life.ended and time.monotonic() < deadline and len(self._signals) <= max(asked, 1):
                time.sleep(_TICK_SECONDS / 5)
            if not life.ended:
                self._say(f"{post.child.name} is hurried")
            life.end(post.child.hurry_signal, within=_HURRY_SECONDS)
            self._say(f"{post.child.name} stopped")


def _run_step(step: Step, outcome: list[BaseException | None]) -> None:
    try:
        step.run()
    except BaseException as problem:
        outcome.append(problem)
    else:
        outcome.append(None)
