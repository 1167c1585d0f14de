"""What `up` is told: flags over a file, mistakes with file, line and field, and what a second reading changes."""

import pytest

from trainmaster.errors import InputError
from trainmaster.live.settings import differences, reread, settings_of

FILE = """
port: 0
policy: las
set: {quantum_s: 600}
round: 1m
rules: {min_run_s: 5m, most_preemptions: 20, preemptible: yes}
queues:
  research: {quota_gpus: 6, weight: 2, borrow: true, limit_s: 2d, nodes: [gpu-a, gpu-b]}
  scavenge: {preemptible: true, priority: -10, nodes: gpu-b}
  plain:
tls: {cert: c.pem, key: k.pem}
"""


def test_a_file_and_the_flags_over_it(tmp_path):
    (tmp_path / "c.yaml").write_text(FILE)
    settings = settings_of({"config": tmp_path / "c.yaml", "policy": "fifo", "slots": None})

    assert (settings.port, settings.policy, settings.policy_settings, settings.round_s) == (0, "fifo", ("quantum_s=600",), 60)
    assert (settings.rules.min_run_s, settings.rules.most_preemptions, settings.rules.preemptible) == (300, 20, True)
    assert (settings.queues["research"].quota_gpus, settings.queues["research"].borrow) == (6, True)
    assert (settings.rules.queues["research"].limit_s, settings.rules.queues["scavenge"].priority) == (172_800, -10)
    assert settings.node_queues == {"gpu-a": ("research",), "gpu-b": ("research", "scavenge")}
    assert set(settings.queues) == {"research", "scavenge", "plain"}


def test_a_second_reading_says_what_has_changed_and_keeps_the_flags(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("policy: las\nqueues: {a: {quota_gpus: 4}, b: }\nrules: {min_run_s: 60}\n")
    old = settings_of({"config": file, "port": 9})
    file.write_text("port: 7\nqueues: {a: {quota_gpus: 6}}\nrules: {min_run_s: 2m}\n")

    assert set(differences(old, reread(old))) == {
        "policy las -> tiresias-las",
        "queues: a: quota_gpus 4.0 -> 6.0",
        "queues: b removed",
        "rules: queues: b removed",
        "rules: min_run_s 60.0 -> 120.0",
    }
    assert differences(old, old) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prot: 1", r'c.yaml:1: prot: no such field; did you mean "port"\?'),
        ("port: x", 'c.yaml:1: port: "x" is not a whole number'),
        ("port: 70000", "--port 70000: ports go from 0"),
        ("backend: k8s", 'c.yaml:1: backend: "k8s"; there are local, slurm, ray'),
        ("queues:\n  a:\n    quota_gpu: 4", r'c.yaml:3: queues.a.quota_gpu: no such field; did you mean "quota_gpus"\?'),
        ("queues:\n  a: {weight: 0}", "c.yaml:2: queues.a.weight: a weight of 0 is no share"),
        ("queues:\n  a: {quota_gpus: -1}", "c.yaml:2: queues.a.quota_gpus: is below 0"),
        ("queues: [a]", "c.yaml:1: queues: is a list, not a mapping"),
        ("rules:\n  min_run_s: often", 'c.yaml:2: rules.min_run_s: "often" is not a length of time'),
        ("rules: {most_preemptions: 1.5}", 'rules.most_preemptions: "1.5" is not a whole number'),
        ("rules: {queues: {}}", "rules.queues: no such field"),
        ("set: [a]", 'c.yaml:1: set: "a" is not PARAM=VALUE'),
        ("insecure: perhaps", '"perhaps" is neither true nor false'),
        ("tls: {cert: c.pem}", "--tls-cert and --tls-key go together"),
        ("- port", "c.yaml:1: is a list, not a mapping"),
        ("round: nan", "round: "),
    ],
)
def test_a_mistake_names_file_line_and_field(tmp_path, text, problem):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=problem):
        settings_of({"config": tmp_path / "c.yaml"})


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: No such file"):
        settings_of({"config": tmp_path / "none.yaml"})
