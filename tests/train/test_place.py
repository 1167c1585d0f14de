"""Which rank a process is, by what its launcher says."""

import pytest

from trainmaster.train.place import rank_and_world


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),  # torchrun, accelerate launch, `ranks: gpu`
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, (2, 4)),  # srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),  # the batch shell of four tasks is one process
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "RANK": "1", "WORLD_SIZE": "8"}, (1, 8)),  # torchrun under srun
    ],
)
def test_torchruns_variables_go_before_slurms(environment, place):
    assert rank_and_world(environment) == place
