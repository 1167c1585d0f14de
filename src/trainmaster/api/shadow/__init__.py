"""Shadow mode: a Slurm cluster watched by an ordinary user, and what other policies would have done there. It touches nothing.

    watch.py     the jobs that have been seen, as accounting or squeue tells of them
    present.py   what runs and waits now, and what is hidden from whoever looks
    replay.py    the twin's comparison of what happened with what policies would have done
    run.py       look, compare, say, wait, until interrupted
"""
