"""The phases that a policy sees: waiting, starting while the restart cost is paid, running."""

from schedules import job, prepare
from trainmaster.engine.state import RUNNING, STARTING, WAITING
from trainmaster.policies.base import ListPolicy, NoParams, policy


def test_a_job_is_starting_until_its_restart_cost_is_paid():
    seen = []

    @policy(name="watcher", paper="none", params=NoParams)
    class Watcher(ListPolicy[NoParams]):
        preemptive = False

        def rank(self, view, memory):
            seen.append((view.now_s, view.jobs.phase.tolist()))
            return view.jobs.submit_s

    jobs = [job("a", 0, 1, 100), job("early", 10, 1, 1), job("late", 40, 1, 1)]
    prepare(jobs, "1x1", Watcher(), restart_cost_s=30).run()

    assert seen[:3] == [(0, [WAITING]), (10, [STARTING, WAITING]), (40, [RUNNING, WAITING, WAITING])]
