"""A job as YAML, in the words of SkyPilot, dstack, Kubernetes and Slurm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.errors import InputError
from trainmaster.live.submission import job_file

from .asking import by_yaml


def made(folder, text):
    return by_yaml(folder, text).check()


def test_our_own_words(tmp_path):
    job = made(
        tmp_path,
        """
name: resnet
workdir: src
nodes: 2
resources: {gpus: a100:4, cpus: 16, memory: 64G}
queue: research
priority: 5
max_duration: 2h
preemptible: true
setup: pip install -r requirements.txt
env: {EPOCHS: 3, EMPTY: , NO: no}
array: 0-9%2
retry: {max: 2, exit_codes: [75, 137]}
checkpoint: {dir: /ck, signal: USR1@60, grace: 2m}
labels: {team: vision}
run: |
  torchrun train.py
""",
    )
    assert (job.name, job.workdir, job.queue, job.priority) == ("resnet", "/home/ana/work/src", "research", 5)
    assert (job.gpus, job.nodes, job.gpu_types, job.cpus, job.memory_gib) == (8, 2, ("a100",), 32, 128)  # resources are of each node
    assert (job.limit_s, job.preemptible, job.setup) == (7_200, True, "pip install -r requirements.txt")
    assert (job.env["EPOCHS"], job.env["EMPTY"], job.env["NO"]) == ("3", "", "no")
    assert (job.array.limit, job.retry.max, job.retry.exit_codes) == (2, 2, (75, 137))
    assert (job.checkpoint_dir, job.signal.number, job.grace_s, job.labels) == ("/ck", 10, 120, {"team": "vision"})
    assert job.script == "#!/bin/bash\ntorchrun train.py\n"


def test_skypilot_s_words(tmp_path):
    draft = by_yaml(
        tmp_path,
        """
name: train
num_nodes: 2
resources:
  accelerators: {H100: 8, A100: 8}
  cpus: 32+
  memory: 256+
  use_spot: true
  job_recovery: {max_restarts_on_errors: 3, recover_on_exit_codes: [33]}
envs: {MODEL: llama}
run: python train.py
""",
    )
    job = draft.check()
    assert (job.gpus, job.gpu_types, job.cpus, job.memory_gib, job.nodes) == (16, ("h100", "a100"), 64, 512, 2)
    assert (job.retry.max, job.retry.exit_codes, job.env["MODEL"]) == (3, (33,), "llama")
    assert [note.partition("job.yaml:")[2] for note in draft.notes] == ["8: resources.use_spot: is not known here; the job runs without it"]


def test_dstack_s_words(tmp_path):
    job = made(
        tmp_path,
        """
type: task
name: train
nodes: 1
commands: [pip install x, python train.py]
env: [A=1, B=2]
resources: {gpu: {name: [A100, H100], memory: 80GB, count: 4}, cpu: 8.., memory: 32GB..}
retry: {on_events: [no-capacity, error], duration: 1d}
max_duration: 3600
priority: 50
""",
    )
    assert (job.gpus, job.gpu_types, job.cpus, job.memory_gib) == (4, ("a100-80gb", "h100"), 8, 32)
    assert (job.limit_s, job.retry.max, job.env["B"], job.priority) == (3_600, 3, "2", 50)
    assert job.script == "#!/bin/bash\nset -e\npip install x\npython train.py\n"


def test_kubernetes_words(tmp_path):
    draft = by_yaml(tmp_path, "run: x\nresources: {limits: {nvidia.com/gpu: 2, nvidia.com/gpumem: 3072, cpu: 500m, memory: 8Gi}}\n")
    job = draft.check()
    assert (job.gpus, job.gpu_memory_gib, job.cpus, job.memory_gib) == (2, 3, 0.5, 8)
    assert len(draft.notes) == 1 and "whole GPUs" in draft.notes[0]
    assert made(tmp_path, 'run: x\nannotations: {gpu-fraction: "0.5"}\n').gpus == 0.5
    assert made(tmp_path, "run: x\nresources: {nvidia.com/gpu: 1, nvidia.com/gpucores: 30}\n").gpus == 0.3


def test_a_share_of_a_gpu_means_the_same_before_and_after_the_number_of_gpus(tmp_path):
    for limits in ("{nvidia.com/gpu: 1, nvidia.com/gpucores: 30}", "{nvidia.com/gpucores: 30, nvidia.com/gpu: 1}"):
        assert made(tmp_path, f"run: train\nresources: {{limits: {limits}}}").gpus == 0.3
    with pytest.raises(InputError, match="a share of each of 2 GPUs"):
        made(tmp_path, "run: train\nresources: {limits: {nvidia.com/gpucores: 30, nvidia.com/gpu: 2}}")


def test_slurm_s_words_and_lists_of_words(tmp_path):
    job = made(
        tmp_path,
        "command: [python, train.py]\njob-name: x\nntasks_per_node: 4\nnodes: 2\ngpus_per_node: 4\ntime: 1-0\npartition: gpu\n"
        "requeue: true\nhold: false\nsignal: B:TERM@30\n",
    )
    assert (job.command, job.name, job.gpus, job.limit_s, job.queue) == (("python", "train.py"), "x", 8, 86_400, "gpu")
    assert (job.preemptible, job.hold, job.env["SLURM_NTASKS"]) == (True, False, "8")


def test_sbatch_lines_in_a_file_that_does_not_read_them_are_said(tmp_path):
    draft = by_yaml(tmp_path, "run: |\n  #!/bin/bash\n  #SBATCH --gres=gpu:4\n  train\n")
    assert [note.rpartition("/")[2] for note in draft.notes] == [
        "job.yaml:1: run: its #SBATCH lines are not read; what it needs is said by fields of this file"
    ]


def test_what_a_job_waits_for(tmp_path):
    draft = by_yaml(tmp_path, "run: x\ndepends_on: [12, prep, afterany:3]\n")
    assert [(awaited.kind, awaited.job) for awaited in draft.awaits] == [("afterok", "12"), ("afterok", "prep"), ("afterany", "3")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "job.yaml: is empty"),
        ("run: [", "job.yaml:2: not YAML"),
        ("- run", "job.yaml:1: is a list, not a mapping"),
        ("name: x", "job.yaml:1: run: is missing"),
        ("run: x\ncommand: y", "job.yaml:2: command: there is a command already"),
        ("run: x\ngpuss: 2", r'job.yaml:2: gpuss: no such field; did you mean "gpus"\?'),
        ("run: x\nresources:\n  gpus: many:2:x", 'job.yaml:3: resources.gpus: "many:2:x" says one thing twice'),
        (
            "run: x\nresources:\n  accelerators: {A100: 8, V100: 4}",
            "job.yaml:3: resources.accelerators: one job holds any of several types",
        ),
        ("run: x\nresources: {instance_type: p4d}", "resources.instance_type: is not known here, and the job would mean something else"),
        ("run: x\nfile_mounts: {/a: s3://b}", "job.yaml:2: file_mounts: is not known here, and"),
        ("run: x\nmax_duration: soon", 'job.yaml:2: max_duration: "soon" is not a length of time'),
        ("run: x\nnodes: {min: 1, most: 2}", "job.yaml:2: nodes.most: no such field"),
        ("run: x\nretry:\n  exit_codes: [0]", 'job.yaml:3: retry.exit_codes: "0" is not a list of exit codes'),
        ("run: x\nenv: {1A: x}", "job.yaml:2: env.1A: .*is not NAME=VALUE"),
        ("run: x\npreemptible: maybe", 'job.yaml:2: preemptible: "maybe" is neither true nor false'),
        ("run: &a x\nname: *a", "job.yaml:1: anchors, aliases and tags are not read here"),
        ("run: !!python/object:os.system x", "job.yaml:1: anchors, aliases and tags are not read here"),
        ("run: x\nrun: y", 'job.yaml:2: "run" is given twice'),
        ("a: " * 20, "job.yaml"),
        ("type: service\nrun: x", 'job.yaml:1: type: "service": only what runs to its end'),
        ("run: x\nx.name: foo", "job.yaml:2: x.name: no such field"),
        ("run: x\nresources: {gpu_fraction: 2}", "resources.gpu_fraction: 2 is not a fraction"),
    ],
)
def test_a_mistake_names_file_line_and_field(tmp_path, text, problem):
    with pytest.raises(InputError, match=problem) as refused:
        by_yaml(tmp_path, text)
    assert "\n" not in str(refused.value)


KEYS = st.sampled_from([*job_file._TOP, "partition", "gres", "nodes", "ntasks", "time", "x"])
LEAVES = st.sampled_from(
    ["4", "a100:4", "true", "2h", "8G", "", "0-3", "~", "'x y'", "75", "[1, 2]", "{a: b}", "[[x]]", "{min: 1, max: 3}"]
)


@given(st.dictionaries(KEYS, LEAVES, max_size=5), st.dictionaries(st.sampled_from(sorted(job_file._RESOURCES)), LEAVES, max_size=3))
def test_any_file_ends_in_a_job_or_in_one_line(tmp_path_factory, top, resources):
    inner = "".join(f"\n  {key}: {value}" for key, value in resources.items())
    text = "".join(f"{key}: {value}\n" for key, value in top.items() if key not in ("resources", "run")) + f"run: x\nresources:{inner}\n"
    try:
        by_yaml(tmp_path_factory.getbasetemp(), text).check()
    except InputError as error:
        assert "\n" not in str(error)
