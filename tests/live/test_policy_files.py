"""A policy's parameters that are files: opened for who starts the controller, never for a request."""

import json

import pytest

from trainmaster.engine.policy_files import READERS
from trainmaster.errors import ParamError
from trainmaster.live.policies import chosen, parameters

CONF = """
ClusterName=c
PriorityType=priority/multifactor
PriorityWeightAge=1000
SchedulerParameters=bf_interval=60,defer
Epilog=/etc/slurm/epilog
"""


def test_the_controller_takes_its_weights_from_the_sites_slurm_conf(tmp_path):
    (tmp_path / "slurm.conf").write_text(CONF)

    policy, _ = chosen("slurm", [f"slurm.conf={tmp_path}/slurm.conf", "bf_interval=30"], READERS)

    assert (policy.params.PriorityWeightAge, policy.params.bf_interval, policy.params.defer) == (1000, 30, True)
    assert policy.params.Epilog == "/etc/slurm/epilog"
    said = json.loads(json.dumps(parameters(policy)))["conf"]
    assert said["path"] == f"{tmp_path}/slurm.conf" and said["ignored"] == 1


@pytest.mark.parametrize(("policy", "parameter"), [("slurm", "conf"), ("tiresias-gittins", "samples")])
def test_a_request_cannot_make_the_controller_read_a_file(tmp_path, policy, parameter):
    secret = tmp_path / "secret"
    secret.write_text("PriorityWeightAge=hunter2\n")

    with pytest.raises(ParamError, match="not for a request") as refused:
        chosen(policy, [f"{parameter}={secret}"])
    assert "hunter2" not in str(refused.value)


def test_a_request_cannot_make_the_controller_run_a_file(tmp_path, monkeypatch):
    """Of a policy in a file the whole file runs, as the user of the controller: whoever may write to the folder it was started in would."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("open('it-ran', 'w')\n")

    with pytest.raises(ParamError, match="not for a request"):
        chosen("mine.py:Mine", [])
    assert not (tmp_path / "it-ran").exists()
