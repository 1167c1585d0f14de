"""Lightning's own auto-requeue on Slurm, unmodified: on its signal it saves, asks scontrol to requeue, and the next attempt goes on."""

import signal

import pytest

from .harness import Harness

TRAIN = """
import time
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch.utils.data import DataLoader, TensorDataset


class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        time.sleep(0.02)
        x, y = batch
        with open("steps", "a") as steps:
            print(self.global_step, file=steps)
        return torch.nn.functional.mse_loss(self.layer(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


x = torch.linspace(0, 1, 64).reshape(-1, 1)
trainer = pl.Trainer(
    max_steps=STEPS, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
    enable_checkpointing=False, default_root_dir=".", plugins=[SLURMEnvironment(auto_requeue=True, requeue_signal=signal.SIGUSR1)],
)
trainer.fit(Line(), DataLoader(TensorDataset(x, 2 * x), batch_size=8))
open("done", "w").write(str(trainer.global_step))
"""


@pytest.mark.slow
def test_a_lightning_job_requeues_itself_and_goes_on_where_it_was(cluster: Harness) -> None:
    def steps() -> list[int]:
        path = cluster.folder / "steps"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    (cluster.folder / "train.py").write_text("import signal\n" + TRAIN.replace("STEPS", "100000"))
    script = "#!/bin/bash\n#SBATCH --signal=SIGUSR1@90\nsrun python train.py\n"
    about = {"signal": {"number": signal.SIGUSR1, "before_s": 5}, "name": "train"}
    first = cluster.start(script, **about)
    for _ in range(4):  # imports take their time
        if cluster.wait_some(lambda: len(steps()) > 20):
            break
    assert len(steps()) > 20, cluster.log(first)
    cluster.backend.stop(first.job, 1, grace_s=40, reason="preempt")
    ended = cluster.until(first)
    assert ended.requeue and ended.asked_to_stop, cluster.log(first)
    reached = steps()[-1]

    (cluster.folder / "train.py").write_text("import signal\n" + TRAIN.replace("STEPS", str(reached + 10)))
    (cluster.folder / "steps").unlink()
    second = cluster.start(script, job=first.job, attempt=2, resumes=True, **about)
    for _ in range(4):
        if cluster.wait_some(lambda: (cluster.folder / "done").exists()):
            break
    assert cluster.until(second).exit_code == 0, cluster.log(second)
    assert 20 < steps()[0] <= reached
