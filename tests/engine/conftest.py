"""Every case by hand runs twice: compiled, and with the policy asked at each decision."""

import pytest

from schedules import simulate


@pytest.fixture(params=[False, True], ids=["compiled", "interpreted"])
def run(request):
    """`simulate` in one of the two loops."""

    def run(jobs, on, policy, *arguments, **setup):
        return simulate(jobs, on, policy, *arguments, interpreted=request.param, **setup)

    return run
