"""`trainmaster up --backend slurm --shadow`: look, compare, say, wait; until interrupted.

Where there is accounting, its history is there at once; if it is slow, a shorter span makes the first report, and the whole is read for the
second. Where there is none, jobs are what squeue has shown since the start, and are kept in the state folder.
"""

from __future__ import annotations

import io
import json
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainmaster.api.files import claimed
from trainmaster.api.request import parse_policies
from trainmaster.api.shadow.present import Present, visibility
from trainmaster.api.shadow.replay import CONF, TRACE, Question, Report, as_configured, compare
from trainmaster.api.shadow.watch import History
from trainmaster.cluster.scontrol import Listed, nodes_listed
from trainmaster.errors import BackendError, InputError
from trainmaster.live.backends.slurm_history import of_sacct, of_squeue, write
from trainmaster.live.backends.slurm_reading import Reading, Site, TookTooLong, since_s, slurm_conf
from trainmaster.live.settings import Settings
from trainmaster.metrics.readable import duration
from trainmaster.report.terminal import text

SPAN = "14d"
POLL_S = 30.0  # between two looks at the queue, where it is all there is; a job that came and went between is still shown for minutes
REFRESH_S = 600.0  # between two reports, and no more than a twentieth of the time is spent on them
FIRST_S, NARROWER = 12.0, (1, 4, 24)  # the first report waits for accounting so long; then it asks for this part of the span
LATER_S = 600.0
MOST_FIRST, WITHIN_FIRST_S = 10_000, 30.0  # jobs in the first report and time for all its policies: it comes within a minute
WITHIN_S = 600.0  # for those of the others
SLACK_S = 3_600.0  # accounting may hear late of a job's end: so much is asked for again
WATCH = "watch.json"

Say = Callable[[str], None]


class Shadow:
    def __init__(self, folder: Path, question: Question, since: str = SPAN, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.question, self._clock = folder, question, clock
        self.reading = Reading()
        self.site: Site | None = None
        self.history = History()
        self.present: Present | None = None
        self.listed: list[Listed] = []
        self._span_s = clock() - since_s(since, clock())
        self._accounted_s: float | None = None  # when sacct was last asked; None: it never answered
        self._reports = 0
        self._problem = ""  # with accounting
        self._unaccounted = 0

    def begin(self) -> list[str]:
        """What can be known here. BackendError: Slurm does not answer."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.site = site = self.reading.site()
        with claimed({"conf": self.folder / CONF}) as files:
            files["conf"].write_text(slurm_conf(site, self.reading.partitions()))
        self.question, said = as_configured(self.question, self.folder / CONF)
        if self.watches:
            self.history.begin_at(self._clock() - site.job_age_s)
            self._take_up(site.job_age_s)
        return [f"shadow of {site.cluster} (Slurm {site.version}): only squeue, sacct and scontrol show are run; nothing is changed", *said]

    @property
    def watches(self) -> bool:
        """squeue is all there is."""
        return self.site is None or not (self.site.accounting and self.site.accounts_gpus)

    def look(self) -> None:
        """One poll: the nodes and the queue."""
        self.listed = nodes_listed(self.reading.nodes(), "scontrol show node")
        rows = of_squeue(self.reading.queue())
        self.present = Present.of(self.listed, rows)
        self._unaccounted = self.history.looked(rows, self._clock())

    def look_back(self) -> None:
        """What accounting knows and we do not yet. It failing is no end: what squeue shows is seen all the same."""
        if self.watches:
            return
        now_s = self._clock()
        wanted_s = now_s - self._span_s
        whole = self._accounted_s is not None and self.history.since_s <= wanted_s
        parts = (1,) if self._reports else NARROWER
        for part in parts:
            from_s = (self._accounted_s or 0.0) - SLACK_S if whole else now_s - self._span_s / part
            try:
                self._account(from_s, LATER_S if self._reports else FIRST_S)
            except TookTooLong as problem:
                self._problem = str(problem)
                continue
            except BackendError as problem:
                self._problem = str(problem)
                break
            self._problem, self._accounted_s = "", now_s
            self.history.begin_at(max(wanted_s, min(self.history.since_s, from_s)))
            return
        if self._accounted_s is None:
            assert self.site is not None
            self.history.begin_at(min(self.history.since_s, now_s - self.site.job_age_s))

    def report(self) -> Report:
        """InputError: there is nothing to compare yet."""
        self._reports += 1
        most, within_s = (MOST_FIRST, WITHIN_FIRST_S) if self._reports == 1 else (None, WITHIN_S)
        return compare(self.history.trace(most), self.listed, self.question, self.folder, self.notes(), within_s)

    def notes(self) -> list[str]:
        assert self.site is not None and self.present is not None
        history, seen_s = self.history, self._clock() - self.history.since_s
        source = "accounting" if self._accounted_s is not None else "squeue"
        found = [f"the last {duration(seen_s)}, by {source}; a job that still runs counts as if it ended now ({history.running:,} do)"]
        if not self.site.accounting:
            found[0] += "; accounting is off here (no slurmdbd), so that there is no history: this grows with the time that it watches"
        elif not self.site.accounts_gpus:
            found[0] += "; accounting does not count GPUs (AccountingStorageTRES=gres/gpu), so that its history is of no use"
        found += [f"accounting: {self._problem}"] if self._problem else []
        found += visibility(self.site, self.present)
        if self._accounted_s is not None and self._unaccounted:
            found.append(f"{self._unaccounted:,} running jobs are in squeue, not in sacct: accounting is late, or hides the jobs of others")
        if lost := len(history.lost):
            found.append(f"{lost:,} jobs run for accounting alone and are left out (sacctmgr show runaway)")
        if unreadable := history.unreadable + self.present.unreadable:
            found.append(f"{unreadable:,} lines of Slurm's are no jobs of the form asked for, and left out")
        return found

    def keep(self) -> None:
        """What squeue alone has told is nowhere else."""
        if self.watches and self.present is not None:
            with claimed({"history": self.folder / TRACE, "watch": self.folder / WATCH}) as files:
                files["history"].write_text("".join(write(self.history.trace().rows)))
                files["watch"].write_text(json.dumps({"since_s": self.history.since_s, "looked_s": self._clock()}))

    def _account(self, from_s: float, within_s: float) -> None:
        with tempfile.TemporaryFile() as file:
            self.reading.accounting(from_s, file, within_s)
            file.seek(0)
            self.history.accounted(of_sacct(io.TextIOWrapper(file, "utf-8", "replace")))

    def _take_up(self, gap_s: float) -> None:
        """What was watched before, unless more was missed since than squeue still shows."""
        with suppress(OSError, ValueError, KeyError, TypeError, InputError):
            told = json.loads((self.folder / WATCH).read_text())
            if self._clock() - float(told["looked_s"]) <= gap_s:
                with (self.folder / TRACE).open(encoding="utf-8", errors="replace") as lines:
                    self.history.accounted(of_sacct(lines))
                self.history.begin_at(max(float(told["since_s"]), self._clock() - self._span_s))


def run_shadow(settings: Settings, say: Say, note: Say, *, width: int, color: bool) -> int:
    """Returns when interrupted. `say`: a report; `note`: what to know beside it."""
    shadow = Shadow(settings.state / "shadow", question_of(settings), settings.since or SPAN)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for line in shadow.begin():
            note(line)
        _watch(shadow, say, note, width, color)
    except KeyboardInterrupt:
        with suppress(KeyboardInterrupt):
            shadow.keep()
            note(f"stopped; the last report is in {shadow.folder}")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def question_of(settings: Settings) -> Question:
    """InputError for what a shadow has no use for."""
    given = settings.flags
    known = {"state", "config", "backend", "shadow", "since", "policy", "policy_settings", "placement", "round_s", "cluster"}
    if useless := [name for name, value in given.items() if value is not None and name not in known]:
        raise InputError(f"--shadow: {useless[0]} is of a controller that runs jobs; a shadow opens no port and starts nothing")
    return Question(
        policies=tuple(parse_policies(settings.policy)) if "policy" in given else (), settings=settings.policy_settings,
        placement=settings.placement, round_s=settings.round_s, cluster=settings.cluster,
    )  # fmt: skip


def _watch(shadow: Shadow, say: Say, note: Say, width: int, color: bool) -> None:
    """Trouble with Slurm ends it at the first look alone; later it is said once."""
    due_s, said, trouble = 0.0, "", ""
    while True:
        begun_s = time.monotonic()
        try:
            if begun_s >= due_s:
                shadow.look_back()
            shadow.look()
            trouble = ""
        except BackendError as problem:
            if shadow.present is None:
                raise
            if str(problem) != trouble:
                note(f"{problem}; looking again")
            trouble = str(problem)
        if begun_s >= due_s and not trouble:
            told = _told(shadow, note, width, color)
            if told != said:
                say(f"{time.strftime('%Y-%m-%d %H:%M')}  {shadow.present}\n\n{told}\n")
            shadow.keep()
            said, due_s = told, time.monotonic() + max(REFRESH_S, 20 * (time.monotonic() - begun_s))
        next_s = due_s if not (shadow.watches or trouble) else time.monotonic() + POLL_S
        time.sleep(max(1.0, next_s - time.monotonic()))


def _told(shadow: Shadow, note: Say, width: int, color: bool) -> str:
    """The report as it stands in a terminal."""
    try:
        report = shadow.report()
    except InputError as problem:
        for line in shadow.notes():
            note(f"note: {line}")
        return f"nothing to compare yet: {problem}"
    for line in report.notes:
        note(f"note: {line}")
    again = "\n       ".join(report.commands)
    return f"{text(report.summaries, width=width, color=color)}report: {report.page}\nagain: {again}"
