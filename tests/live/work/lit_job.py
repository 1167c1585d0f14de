"""A Lightning job as people run it on Slurm: it saves at the signal, asks to be requeued, and resumes from where it was.

    srun python lit_job.py FOLDER

The first attempt trains for ever; a later one only a little further than where it began.
"""

import os
import sys
import time

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch.utils.data import DataLoader, TensorDataset


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.until = sys.maxsize

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        time.sleep(0.02)
        if self.global_step >= self.until:
            self.trainer.should_stop = True
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def on_train_start(self) -> None:
        print(f"begins at step {self.global_step}", flush=True)
        if "SLURM_RESTART_COUNT" in os.environ:
            self.until = self.global_step + 10

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        print(f"saved at step {self.global_step}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    pl.seed_everything(0)
    trainer = pl.Trainer(
        default_root_dir=sys.argv[1], accelerator="cpu", devices=1, num_nodes=1, max_epochs=-1, enable_checkpointing=False, logger=False,
        enable_progress_bar=False, enable_model_summary=False, plugins=[SLURMEnvironment(auto_requeue=True)],
    )  # fmt: skip
    model = Line()
    trainer.fit(model, DataLoader(TensorDataset(torch.randn(64, 4)), batch_size=4))
    print(f"ended at step {trainer.global_step}", flush=True)


if __name__ == "__main__":
    main()
