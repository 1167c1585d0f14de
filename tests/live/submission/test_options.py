"""sbatch's options and ours, on a command line and in #SBATCH lines, to the totals of a job."""

import os
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.errors import InputError
from trainmaster.live.submission import front
from trainmaster.live.submission.options import AS_SBATCH, OPTIONS, split, tell
from trainmaster.live.submission.request import Asked, Context

from .asking import CONTEXT, NOW_S, by_flags, by_script, spec


def test_a_job_asks_for_one_accelerator_unless_it_is_told_otherwise():
    plain = spec("")
    assert (plain.gpus, plain.nodes, plain.cpus, plain.memory_gib, plain.limit_s) == (1, None, 0, 0, None)
    assert (spec("--gpus 0").gpus, spec("--gpus 0").cpus) == (0, 1)
    assert spec("-N 3").gpus == 3


@pytest.mark.parametrize(
    ("flags", "gpus", "nodes", "cpus", "memory_gib"),
    [
        ("-G 8", 8, None, 0, 0),
        ("--gres=gpu:4", 4, 1, 0, 0),
        ("--gpus-per-node=4 -N 2", 8, 2, 0, 0),
        ("--gres gpu:a100:4 -N2 -c 8", 8, 2, 16, 0),  # one process a node
        ("-n 8 --gpus-per-task=1 -c 4", 8, None, 32, 0),
        ("-n 8 --ntasks-per-node=4 --gpus-per-node=4", 8, 2, 0, 0),
        ("-N 2 --ntasks-per-node 4 --gpus-per-node 4 --mem 64G", 8, 2, 0, 128),
        ("-n 8 -G 0", 0, None, 8, 0),
        ("-G 4 --cpus-per-gpu 8 --mem-per-gpu 16G", 4, None, 32, 64),
        ("-G 4 --gpus-per-node 2 -N 2", 4, 2, 0, 0),  # said twice, and the same
        ("-c 4 --mem-per-cpu 2G", 1, None, 4, 8),
        ("-G 0.5 --cpus 2 --memory 8G", 0.5, None, 2, 8),
    ],
)
def test_amounts_of_a_node_a_process_and_a_gpu_become_those_of_the_gang(flags, gpus, nodes, cpus, memory_gib):
    asked = spec(flags)
    assert (asked.gpus, asked.nodes, asked.cpus, asked.memory_gib) == (gpus, nodes, cpus, memory_gib)


def test_memory_for_each_cpu_is_for_each_process_where_no_cpus_are_asked_for():
    """With Slurm a process has a CPU."""
    assert spec("--gres gpu:1 -n 8 --mem-per-cpu 4G").memory_gib == 32
    assert spec("--gres gpu:1 -n 2 -c 4 --mem-per-cpu 4G").memory_gib == 32
    assert spec("--gres gpu:1 --mem-per-cpu 4G").memory_gib == 4


def test_ranges_are_elastic():
    ranged = spec("--gpus 2..8")
    assert (ranged.gpus, ranged.min_gpus, ranged.max_gpus) == (2, 2, 8)
    nodes = spec("-N 1-4 --gpus-per-node 8")
    assert (nodes.gpus, nodes.nodes, nodes.min_gpus, nodes.max_gpus) == (8, None, 8, 32)
    with pytest.raises(InputError, match="a range of nodes takes --gpus-per-node"):
        spec("-N 1-4")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ("-G 8 --gpus-per-node 2 -N 2", "--?G asks for 8 GPUs in all and --gpus-per-node for 4; give one of them"),
        ("--gpus a100:4 --gpus-per-node v100:4", "asks for other accelerators than an earlier option"),
        ("-G 5 -N 2", "5 GPUs do not spread evenly over 2 nodes"),
        ("--min-gpus 8 --max-gpus 2", "min_gpus is above max_gpus"),
        ("-n 0", "-n: \"0\" is not a whole number of at least 1"),
        ("--ranks socket", "--ranks: \"socket\"; give node or gpu"),
        ("--export=1A", "--export: \"1A\" is not the name of a variable"),
        ("-C 'bigmem&ib'", "-C: .* nodes have no features here"),
        ("-w node7", "-w: which nodes is decided here"),
        ("--licenses=x", "--licenses: is not known here, and the job would mean something else without it"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_or_would_be_lost_is_refused(flags, problem):
    with pytest.raises(InputError, match=problem):
        spec(flags)


def test_every_option_of_the_sbatch_that_is_installed_is_known(tmp_path):
    """Known may mean refused: what it does not say is "no option"."""
    if shutil.which("sbatch") is None:
        pytest.skip("no sbatch on this machine")
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=n1 CPUs=1\nPartitionName=p Nodes=n1\n")
    told = subprocess.run(["sbatch", "--help"], env={**os.environ, "SLURM_CONF": str(conf)}, capture_output=True, text=True, check=True)
    theirs = set(re.findall(r"^\s*(?:-\w, )?(--[a-z-]+)", told.stdout, re.MULTILINE)) - {"--help", "--usage", "--version"}
    assert len(theirs) > 80 and theirs <= {name for option in AS_SBATCH for name in option.names}


def test_what_is_harmless_is_noted_in_one_line_each():
    draft = by_flags("--mail-type=END --exclusive --cpu-bind=cores --mem=0 --verbose")

    assert [note.partition(":")[0] for note in draft.notes] == ["--mail-type", "--exclusive", "--cpu-bind", "--mem"]
    assert all(note.isprintable() for note in draft.notes)


def test_everything_else_of_a_job():
    asked = spec(
        "-J fine -p gpu -A lab --qos high --priority 3 -H -t 1-0 --estimate 2h -a 0-9%2 --signal=B:USR1@120 --requeue --retry 2 "
        "--retry-on 75,137 --grace 2m --ranks gpu -o %x-%j.out -e err --open-mode truncate --comment 'a note' --label team=vision "
        "--env A=1 --env B= --checkpoint-dir /ck -D sub --snapshot -b now+1hour --deadline now+1day --gpu-type a100,H100 --gpu-memory 40"
    )
    assert (asked.name, asked.queue, asked.account, asked.qos, asked.priority, asked.hold) == ("fine", "gpu", "lab", "high", 3, True)
    assert (asked.limit_s, asked.estimate_s, asked.begin_s, asked.deadline_s) == (86_400, 7_200, NOW_S + 3_600, NOW_S + 86_400)
    assert (asked.array.limit, len(asked.array.indices)) == (2, 10)
    assert (asked.signal.number, asked.signal.before_s, asked.signal.batch_only, asked.grace_s) == (10, 120, True, 120)
    assert (asked.preemptible, asked.retry.max, asked.retry.exit_codes, asked.ranks) == (True, 2, (75, 137), "gpu")
    assert (asked.output, asked.error, asked.append) == ("%x-%j.out", "err", False)
    assert asked.labels == {"comment": "a note", "team": "vision"}
    assert (asked.env["A"], asked.env["B"], asked.checkpoint_dir) == ("1", "", "/ck")
    assert (asked.workdir, asked.snapshot) == ("/home/ana/work/sub", "/home/ana/work/sub")
    assert (asked.gpu_types, asked.gpu_memory_gib) == (("a100", "h100"), 40)


def test_a_limit_of_nothing_is_no_limit():
    assert spec("-t UNLIMITED").limit_s is None and spec("-t 0").limit_s is None


def test_options_as_getopt_long_reads_them():
    found, rest = split(["-n4", "-J", "a b", "--gpus=2", "--part", "x", "--exclusive", "train.sh", "-n", "9"], OPTIONS)

    assert [(spelled, value) for _, value, spelled in found] == [
        ("-n", "4"), ("-J", "a b"), ("--gpus", "2"), ("--part", "x"), ("--exclusive", ""),
    ]  # fmt: skip
    assert rest == ["train.sh", "-n", "9"]
    for wrong, told in (
        (["--gpu", "2"], "is short for"), (["--frob"], 'no option "--frob"'), (["--gpuss", "1"], "did you mean --gpus"),
        (["-n"], "takes a value"), (["--hold=yes"], "takes no value"), (["-Z"], 'no option "-Z"'),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            split(wrong, OPTIONS)


# ------------------------------------------------------------------------------------------------ the environment


@pytest.mark.parametrize(
    ("export", "kept"),
    [
        ("ALL", {"HOME", "A", "B"}), ("NONE", {"HOME"}), ("A", {"HOME", "A"}), ("A,C=3", {"HOME", "A", "C"}),
        ("ALL,C=3", {"HOME", "A", "B", "C"}), ("C='1,2'", {"HOME", "C"}),
    ],
)  # fmt: skip
def test_the_environment_that_export_names(export, kept):
    context = Context(workdir="/", environ={"HOME": "/h", "A": "1", "B": "2"}, now_s=NOW_S)
    env = by_flags(f'--export "{export}"', context).fields["env"]

    assert set(env) == kept
    assert env.get("C") in (None, "3", "1,2")


def test_an_apostrophe_in_a_variable_that_export_sets_is_kept():
    assert by_flags('--export "NONE,WORD=it\'s,OTHER=2"').fields["env"].items() >= {("WORD", "it's"), ("OTHER", "2")}


def test_what_belongs_to_another_job_or_opens_the_controller_stays_behind():
    ours = {"TRAINMASTER_TOKEN": "tm_x", "TRAINMASTER_JOB_ID": "7", "TRAINMASTER_STATE": "/s"}
    environ = {"HOME": "/h", "SLURM_PROCID": "3", "X": "\udcff", "\udcffX": "1", **ours}
    context = Context(workdir="/", environ=environ, now_s=NOW_S)

    assert by_flags("", context).fields["env"] == {"HOME": "/h"}
    assert by_flags("--export ALL,SLURM_PROCID=0", context).fields["env"]["SLURM_PROCID"] == "0"  # whoever says so


def test_what_srun_needs_to_know_is_put_into_the_environment_as_sbatch_does():
    env = spec("-N 2 --ntasks-per-node=4 --gpus-per-node=4 -c 8").env
    assert (env["SLURM_NTASKS"], env["SLURM_NTASKS_PER_NODE"], env["SLURM_CPUS_PER_TASK"], env["SLURM_GPUS_PER_NODE"]) == (
        "8",
        "4",
        "8",
        "4",
    )
    assert not any(name.startswith("SLURM_") for name in spec("-G 2").env)


# ------------------------------------------------------------------------------------------------ #SBATCH lines


def test_sbatch_lines_count_only_before_the_first_command_and_are_quoted_as_in_a_shell():
    draft = by_script(
        "#!/bin/bash\n"
        '#SBATCH --job-name="my job"  # a remark\n'
        "##SBATCH --hold\n"
        "# SBATCH --hold\n"
        " #SBATCH --hold\n"
        "#SBATCHx --hold\n"
        "\n"
        "#SBATCH\t-q night --comment 'it''s' --mem 4G\n"
        "echo\n"
        "#SBATCH --hold\n"
    )
    asked = draft.check()
    assert (asked.name, asked.hold, asked.qos, asked.labels, asked.memory_gib) == ("my job", False, "night", {"comment": "its"}, 4)
    assert draft.notes == ("train.sh:10: #SBATCH after the first command is not read, as sbatch does not read it either",)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("#SBATCH --gres=shard:2", 'train.sh:2: --gres: "shard" is not a resource here'),
        ("#SBATCH --job-name='open", "train.sh:2: .*a quotation that does not end"),
        ("#SBATCH --frob", 'train.sh:2: no option "--frob"'),
        ("#SBATCH hetjob", "train.sh:2: hetjob: a job of unlike parts"),
        ("#SBATCH -n 2 script.sh", 'train.sh:2: "script.sh" belongs to no option'),
    ],
)
def test_a_mistake_in_a_script_names_its_line(line, problem):
    with pytest.raises(InputError, match=problem):
        by_script(f"#!/bin/bash\n{line}\ntrue\n")


def test_the_command_line_wins_over_the_script_and_says_gpus_anew():
    asked = Asked()
    tell(asked, split(["-G", "2", "-J", "mine"], OPTIONS)[0])
    draft = front.of_script("#!/bin/sh\n#SBATCH -N 2 --gpus-per-node=a100:4 -J theirs -t 10\n", "x.sh", [], asked, CONTEXT)

    made = draft.check()
    assert (made.gpus, made.nodes, made.gpu_types, made.name, made.limit_s) == (2, 2, (), "mine", 600)


def test_lines_of_another_system_are_not_read_and_that_is_said():
    assert by_script("#!/bin/sh\n#PBS -l nodes=4\ntrue\n").notes == ("train.sh:2: lines of #PBS are not read here; #SBATCH lines are",)


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"print(1)\n", "has no #! line"),
        (b"#!/bin/sh\n\xff\xfe", "is not UTF-8 text"),
        (b"#!/bin/sh\n\0", "holds a NUL"),
        (b"#!/bin/sh\r\ntrue\r\n", "lines end as on Windows"),
        (b"#!/bin/sh\n" + b"#" * (4 << 20), "larger than 4 MiB"),
    ],
)
def test_a_file_that_is_no_script_is_refused(tmp_path, content, problem):
    (tmp_path / "x.sh").write_bytes(content)
    with pytest.raises(InputError, match=problem):
        front.of_file(str(tmp_path / "x.sh"), [], Asked(), CONTEXT)


@pytest.mark.parametrize("name", ["missing.sh", ".", "/dev/zero", "a\0b"])
def test_what_is_no_file_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        front.of_file(name, [], Asked(), CONTEXT)


def test_a_quoted_command_is_for_a_shell_and_the_name_is_that_of_the_program():
    quoted = front.of_command(["python train.py && echo done"], Asked(), CONTEXT).check()
    assert (quoted.script, quoted.name) == ("#!/bin/sh\npython train.py && echo done\n", "python")
    assert front.of_command(["/opt/bin/train", "x"], Asked(), CONTEXT).check().name == "train"
    with pytest.raises(InputError, match="no command"):
        front.of_command([], Asked(), CONTEXT)


WORDS = st.sampled_from([name for option in AS_SBATCH for name in option.names]) | st.sampled_from(
    ["4", "gpu:2", "a100:4", "1-4", "2h", "8G", "x", "0", "afterok:3", "0-9%2", "--", "=", "B:USR1@9", "ALL", "now+1hour", "75,137"]
)


@given(st.lists(WORDS, max_size=8))
def test_any_options_end_in_a_job_that_the_controller_takes_or_in_one_line(words):
    try:
        found, _ = split(words, AS_SBATCH)
        asked = Asked()
        tell(asked, found)
        made = front.of_command(["true"], asked, CONTEXT).check()
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert made.gpus >= 0


@given(st.text(max_size=200))
def test_any_script_ends_in_a_job_or_in_one_line(text):
    try:
        by_script(f"#!/bin/sh\n#SBATCH {text}\n")
    except InputError as error:
        assert "\n" not in str(error)


def test_a_script_runs_once_as_with_sbatch_and_a_command_on_every_node():
    assert by_script("#!/bin/sh\n#SBATCH -N 2\nsrun true\n").check().ranks == "batch"
    assert by_script("#!/bin/sh\n#SBATCH --ranks gpu\ntrue\n").check().ranks == "gpu"
    assert spec("-N 2").ranks == "node"
