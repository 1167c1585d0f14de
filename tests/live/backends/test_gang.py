"""The supervisor of one node of several, without a cluster: what it carries between their flags."""

from pathlib import Path

from trainmaster.live.node import flag
from trainmaster.live.node import folder as files
from trainmaster.live.node.gang import GangSupervisor


def of_node(number: int, folder: Path) -> GangSupervisor:
    """One of two, whose processes run."""
    one = GangSupervisor.__new__(GangSupervisor)
    one.node, one.nodes, one.started_s, one.relayed = number, 2, 1.0, {}
    one.control, one.gang = str(folder / f"control{number}"), str(folder / "gang")
    Path(one.control).mkdir()
    files.write_bytes(f"{one.control}/flag", flag.pack([0] * 8))
    return one


def test_a_step_that_could_not_be_told_at_first_is_told_when_it_can_be(tmp_path: Path) -> None:
    first, second = of_node(0, tmp_path), of_node(1, tmp_path)
    flag.put(first.control, flag.STOP_STEP, 120)
    first._share_flags()  # there is no folder to write it to: as bad as a full disk
    (tmp_path / "gang").mkdir()
    first._share_flags()
    second._share_flags()

    assert flag.read(second.control)[flag.STOP_STEP] == 120


def test_a_flag_that_the_job_has_removed_keeps_its_node_from_nothing_else(tmp_path: Path) -> None:
    for number in (0, 1):
        one = of_node(number, tmp_path)
        Path(one.control, "flag").unlink()
        one._share_flags()
