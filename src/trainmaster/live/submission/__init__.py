"""How jobs are asked for: flags, `#SBATCH` lines, YAML files. Every form is told to one `Asked`, which becomes the fields of a `JobSpec`.

    told by    options (sbatch's flags and ours), script (`#SBATCH` lines), job_file (YAML)
    in words   durations, memory, gpus, arrays, dependencies, signals, moments: text to values, an error in one line
    made into  request: totals of the gang, the environment, where each field came from

What is not understood is said when the job is submitted: an error where leaving it out would change what the job means, else a note.
None of this imports pydantic: a submission is a fresh process, and the controller checks the fields again.
"""
