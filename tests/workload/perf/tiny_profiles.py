"""A folder of measured placements small enough to redo by hand: one application, "toy", initial batch 8.

step times     1 GPU   local batch 4: 1 s, 8: 2 s (no sync)          2 GPUs   4: 2 s, 8: 3 s (1 s of it sync)
               1+1     4: 3 s, 8: 5 s (2 s sync)                      3 nodes of 1 (scalability)  4: 7 s, 8: 9 s (4 s sync)
epochs         end at 10 and 30 (the least over batches)
statistics     epoch 1: var = 3 sqr -> a step at batch 16 is worth (3 + 1) / (3 / 2 + 1) = 1.6 steps at 8
               epoch 2: sqr = 0     -> worth 2: noise alone
"""

from pathlib import Path

FILES = {
    "placements.csv": "placement,local_bsz,step_time,sync_time\n1,4,1,0\n1,8,2,0\n2,4,2,1\n2,8,3,1\n11,4,3,2\n11,8,5,2\n",
    "scalability.csv": "num_nodes,num_replicas,local_bsz,step_time,sync_time\n3,3,4,7,4\n3,3,8,9,4\n",
    "validation-8.csv": "progress,iteration,metric,grad_sqr,grad_var\n10,10,0.5,1,3\n30,30,0.9,0,2\n",
    "validation-16.csv": "progress,iteration,metric,grad_sqr,grad_var\n11,7,0.5,1,3\n31,17,0.9,0,2\n",
    "validation-32.csv": "progress,iteration,metric,grad_sqr,grad_var\n12,5,0.5,2,6\n32,12,0.9,0,2\n",
}


def write_profiles(folder: Path, app: str = "toy", **changed: str) -> Path:
    """The folder, with files replaced (`placements_csv="…"`), added, or left out ("")."""
    files = FILES | {name.replace("_csv", ".csv").replace("_", "-"): text for name, text in changed.items()}
    (folder / app).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        if text:
            (folder / app / name).write_text(text)
    return folder
