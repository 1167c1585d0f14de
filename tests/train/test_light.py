"""What it costs to import, and what it does where there is no Trainmaster: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

HEAVY = ("torch", "numpy", "numba", "polars", "yaml", "pydantic", "dataclasses", "inspect", "asyncio", "logging")


def python(code, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRAINMASTER")}
    argv = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(argv, env={**clean, **environment}, capture_output=True, text=True, check=True).stdout


def test_importing_it_loads_nothing_heavy():
    loaded = python("import sys, trainmaster.train; print(*sys.modules)").split()

    assert [name for name in HEAVY if name in loaded] == []
    assert [name for name in loaded if name.startswith("trainmaster") and name.split(".")[1:2] not in ([], ["errors"], ["train"])] == []


def test_outside_trainmaster_loops_are_plain_loops_and_nothing_is_written(tmp_path):
    out = python(
        f"""
        import os, signal
        os.chdir({str(tmp_path)!r})
        import trainmaster.train as tm
        assert not tm.checkpoint(lambda folder: 1 / 0, lambda folder: 1 / 0, every_steps=1)
        for epoch in tm.epochs(2):
            for item in tm.steps("ab"):
                tm.report(loss=object())
                print(epoch, item, end=" ")
        for step in tm.steps(3):
            print(step, end=" ")
        print(tm.steps_done(), tm.step(), tm.resumed, tm.attempt(), tm.should_stop())
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL and not os.listdir()
        """
    )
    assert out == "0 a 0 b 1 a 1 b 0 1 2 7 8 False 0 False\n"


def test_with_a_directory_it_saves_and_resumes_outside_too(tmp_path):
    script = f"""
        import trainmaster.train as tm
        seen = []
        tm.checkpoint(
            lambda folder: (folder / "seen").write_text(" ".join(seen)),
            lambda folder: seen.extend((folder / "seen").read_text().split()),
            directory={str(tmp_path)!r},
            every_steps=2,
        )
        for item in tm.steps(["a", "b", "c", "d", "e"]):
            seen.append(item)
            if not tm.resumed and item == "d":
                break
        print(*seen, tm.steps_done())
        """

    assert python(script) == "a b c d 3\n"
    assert python(script) == "a b c d e 5\n"


def test_a_loop_of_ones_own(tmp_path):
    script = f"""
        import trainmaster.train as tm
        total = 0
        def load(folder):
            global total
            total = int((folder / "total").read_text())
        tm.checkpoint(lambda folder: (folder / "total").write_text(str(total)), load, directory={str(tmp_path)!r}, every_steps=1)
        while tm.steps_done() < 5:
            total += tm.steps_done()
            if tm.step() == 3 and not tm.resumed:
                break
        print(total)
        """

    assert python(script) == "3\n"
    assert python(script) == "10\n"
