"""`--profiles catalogue`: common models on common accelerators, for who has no measurements. A stated default, not a measurement.

Training speed of one device against a V100, 16 GiB. Two sources, and a rule between them:

measured    p100, k80: geometric means over the batch sizes of Gavel's `simulation_throughputs.json` (Narayanan et al., OSDI 2020),
            for resnet-18, resnet-50, transformer, lstm-lm, recommendation, cyclegan and a3c. Other models take the row that
            is named as their likeness.
data sheet  a100, h100, t4, l4, cpu: the geometric mean of two ratios to the V100, of dense FP16 (or else FP32) peak and of memory
            bandwidth, as the vendors' data sheets give them: nvidia.com/data-center, the product's page; the CPU is two
            sockets of a Xeon Platinum 8380 (Intel ARK: eight channels of DDR4-3200 each; peak from its AVX-512 clock).
on device   the part of a step that the accelerator's speed acts on; the rest (input, host code, launches) costs the same on all.
            Judged from the measured rows: a recommender and a small agent hardly gain from a faster device.

Give a table of your own with --profiles FILE.json (speeds.py says how): measure some hundred steps on each type.
"""

from __future__ import annotations

import math

from trainmaster.workload.perf.speeds import OTHER, Speeds

REFERENCE = "v100"
# TFLOP/s dense, in the precision that mixed-precision training uses there; GB/s
DATA_SHEET = {"v100": (125.0, 900.0), "a100": (312.0, 1_555.0), "h100": (989.0, 3_350.0), "t4": (65.0, 320.0), "l4": (121.0, 300.0),
              "cpu": (8.0, 410.0)}  # fmt: skip
MEASURED = {  # p100, k80
    "resnet-18": (0.90, 0.155),
    "resnet-50": (0.66, 0.158),
    "transformer": (0.74, 0.28),
    "lstm-lm": (0.84, 0.25),
    "recommendation": (1.0, 1.0),  # 2.17 and 1.31 were measured: bound by its host, which differed
    "cyclegan": (0.54, 0.114),
    "a3c": (0.79, 0.48),
}
MODELS = {  # likeness among the measured, part on the device
    "resnet-18": ("resnet-18", 0.9), "resnet-50": ("resnet-50", 1.0), "resnet-101": ("resnet-50", 1.0), "vgg-16": ("resnet-50", 1.0),
    "mobilenet-v2": ("resnet-18", 0.8), "efficientnet-b0": ("resnet-18", 0.9), "ssd": ("resnet-50", 0.9), "mask-rcnn": ("resnet-50", 0.9),
    "yolov3": ("resnet-50", 0.9), "cyclegan": ("cyclegan", 1.0), "bert-base": ("transformer", 1.0), "bert-large": ("transformer", 1.0),
    "gpt-2": ("transformer", 1.0), "transformer": ("transformer", 1.0), "vit-base": ("transformer", 1.0), "lm": ("lstm-lm", 0.9),
    "deepspeech2": ("lstm-lm", 0.9), "recommendation": ("recommendation", 0.3), "neumf": ("recommendation", 0.3),
    "dlrm": ("recommendation", 0.3), "a3c": ("a3c", 0.4), "pointnet": ("resnet-18", 0.8), OTHER: ("resnet-50", 0.9),
}  # fmt: skip


def catalogue() -> Speeds:
    speeds = {model: speeds_of(*likeness) for model, likeness in MODELS.items()}
    return Speeds.of("the catalogue", {"reference": REFERENCE, "speeds": speeds})


def speeds_of(likeness: str, on_device: float) -> dict[str, float]:
    peak, bandwidth = DATA_SHEET[REFERENCE]
    scaled = {name: math.sqrt(tflops / peak * gb_s / bandwidth) for name, (tflops, gb_s) in DATA_SHEET.items()}
    known = {name: 1.0 / (1.0 - on_device + on_device / ratio) for name, ratio in scaled.items()}
    p100, k80 = MEASURED[likeness]
    return {**known, "p100": p100, "k80": k80, REFERENCE: 1.0, "v100-32gb": 1.0, "a100-80gb": known["a100"]}
