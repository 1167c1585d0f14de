"""`--profiles catalogue`: common models on common accelerators, for who has no measurements. A stated default, not a promise.

Training speed of one device against a V100 of 16 GiB. A cell is measured, by one of

G  Gavel     geometric mean over the batch sizes of its `simulation_throughputs.json` (Narayanan et al., OSDI 2020)
S  Sia       step times of its profiles, one GPU at the largest batch that both ran (Jayaram Subramanya et al., SOSP 2023): T4 of
             g4dn.12xlarge, A100 40 GiB, against V100 of ND40rs_v2
L  Lambda    training throughput, mixed precision (lambdal/deeplearning-benchmark, commit 0551cb7,
             pytorch/pytorch-train-throughput-fp16.csv): A100 40 GiB PCIe, A100 80 GiB SXM4, H100 80 GiB SXM5, against V100 16 GiB

or derived (D), by one of these rules:

likeness     what was not measured of a model is what was of the one that it is like in MODELS, or of what that one is like in turn, to
             a power: by which the two differ where both were measured, among fast devices or else among slow ones, at most 1.25.
             What gains half as much from a fast device loses half as much on a slow one, in logarithms
L4           T4 x the geometric mean of the ratios of dense FP16 peak (121 / 65 TFLOP/s) and memory bandwidth (300 / 320 GB/s), by
             the data sheets, nvidia.com/data-center
CPU          two sockets of a Xeon Platinum 8380 against the V100, likewise: 8 / 125 TFLOP/s (AVX-512 clock), 410 / 900 GB/s (Intel ARK)
V100 32 GiB  as V100

Left out: Gavel's Recommendation (P100 2.17, K80 1.31) and Sia's A100 for DeepSpeech2 (0.97), YOLOv3 (1.00) and NCF (18): their V100
machines were bound by something else than the accelerator, or the other was.

Give a table of your own with --profiles FILE.json (speeds.py says how): measure some hundred steps on each type.
"""

from __future__ import annotations

import math

from trainmaster.workload.perf.speeds import OTHER, Speeds

Row = dict[str, tuple[float, str]]
REFERENCE, BASE = "v100", "resnet-50"
SLOW, FAST = ("k80", "p100", "t4"), ("a100", "a100-80gb", "h100")
MOST_POWER = 1.25
MEASURED: dict[str, Row] = {
    "resnet-50": {"k80": (0.158, "G"), "p100": (0.66, "G"), "t4": (0.409, "S"),
                  "a100": (1.68, "L"), "a100-80gb": (1.90, "L"), "h100": (3.14, "L")},
    "resnet-18": {"k80": (0.155, "G"), "p100": (0.90, "G"), "t4": (0.342, "S"), "a100": (2.08, "S")},
    "cyclegan": {"k80": (0.114, "G"), "p100": (0.54, "G")},
    "transformer": {"k80": (0.28, "G"), "p100": (0.74, "G")},
    "lm": {"k80": (0.25, "G"), "p100": (0.84, "G")},
    "a3c": {"k80": (0.48, "G"), "p100": (0.79, "G")},
    "bert-base": {"t4": (0.386, "S"), "a100": (1.95, "L"), "a100-80gb": (2.34, "L"), "h100": (4.30, "L")},
    "bert-large": {"a100": (2.05, "L"), "a100-80gb": (2.67, "L"), "h100": (5.28, "L")},
    "transformer-xl": {"a100": (1.91, "L"), "a100-80gb": (2.33, "L"), "h100": (3.37, "L")},
    "gnmt": {"a100": (2.36, "L"), "a100-80gb": (3.08, "L"), "h100": (5.90, "L")},
    "ssd": {"a100": (1.72, "L"), "a100-80gb": (2.00, "L"), "h100": (3.41, "L")},
    "tacotron2": {"a100": (3.02, "L"), "a100-80gb": (4.74, "L"), "h100": (6.19, "L")},
    "waveglow": {"a100": (4.13, "L"), "a100-80gb": (5.17, "L"), "h100": (8.33, "L")},
    "ncf": {"a100": (1.58, "L"), "a100-80gb": (1.31, "L"), "h100": (2.23, "L")},
    "deepspeech2": {"t4": (0.432, "S")},
    "yolov3": {"t4": (0.569, "S")},
}  # fmt: skip
MODELS = {  # and the measured one that each is like
    "resnet-50": BASE, "resnet-18": BASE, "resnet-101": BASE, "vgg-16": BASE, "mobilenet-v2": "resnet-18", "efficientnet-b0": "resnet-18",
    "pointnet": "resnet-18", "ssd": BASE, "mask-rcnn": "ssd", "yolov3": BASE, "cyclegan": BASE, "bert-base": "transformer",
    "bert-large": "bert-base", "gpt-2": "bert-large", "transformer": "bert-base", "transformer-xl": "transformer", "vit-base": "bert-base",
    "gnmt": "lm", "lm": "gnmt", "lstm-lm": "lm", "deepspeech2": "lm", "tacotron2": "lm", "waveglow": BASE, "ncf": BASE, "neumf": "ncf",
    "recommendation": "ncf", "dlrm": "ncf", "a3c": "resnet-18", OTHER: BASE,
}  # fmt: skip
L4_BY_T4 = math.sqrt(121 / 65 * 300 / 320)
CPU = math.sqrt(8 / 125 * 410 / 900)


def catalogue() -> Speeds:
    speeds = {model: {name: speed for name, (speed, _) in row_of(model).items()} for model in MODELS}
    return Speeds.of("the catalogue", {"reference": REFERENCE, "speeds": speeds})


def row_of(model: str) -> Row:
    """Speed by type, and where it comes from: G, S, L or D."""
    if model not in MEASURED:
        return {name: (speed, "D") for name, (speed, _) in row_of(MODELS[model]).items()}
    measured = MEASURED[model]
    row, like, alike = dict(measured), model, [model]
    while (like := MODELS[like]) not in alike:
        alike.append(like)
    for like in dict.fromkeys([*alike[1:], BASE]):
        for side, other in ((SLOW, FAST), (FAST, SLOW)):
            power = _compared(measured, MEASURED[like], side) or _compared(measured, MEASURED[like], other) or 1.0
            for name in side:
                if name not in row and name in MEASURED[like]:
                    row[name] = MEASURED[like][name][0] ** min(power, MOST_POWER), "D"
    known = {name: row[name] for name in (*SLOW, *FAST)}
    return {**known, "l4": (L4_BY_T4 * row["t4"][0], "D"), "cpu": (CPU, "D"), REFERENCE: (1.0, "D"), "v100-32gb": (1.0, "D")}


def _compared(mine: Row, like: Row, types: tuple[str, ...]) -> float | None:
    """The power of the other's speed that is mine, where the other differs most from the reference; None if nothing is known of both."""
    both = [name for name in types if name in mine and name in like]
    if not both:
        return None
    furthest = max(both, key=lambda name: abs(math.log(like[name][0])))
    return math.log(mine[furthest][0]) / math.log(like[furthest][0])
