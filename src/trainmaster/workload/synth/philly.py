"""Philly: a Microsoft cluster, September to December 2017; nearly all jobs want one GPU, nearly all GPU-time goes to gangs.

Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training Workloads", USENIX ATC 2019.
[trace] is its public log as flattened for Pollux (Qiao et al., OSDI 2021): 82,247 jobs with submission, run time, GPUs and
virtual cluster, of the log's 117,325. It has neither users nor how jobs ended.
"""

from trainmaster.workload.synth.marginals import (
    DAY_S,
    CountedGangs,
    Marginals,
    QuantileTable,
    Queues,
    Rhythm,
    RunTimesByGang,
    Statuses,
    Users,
)

# [trace], measured: 93.17 % want one GPU, 1.28 are wanted in the mean.
GANGS = {1: 76627, 2: 1818, 4: 1870, 8: 1643, 12: 7, 16: 199, 24: 7, 32: 67, 64: 6, 128: 3}

# [trace], measured, whole seconds, in the paper's four classes of gangs (figure 2). A line through the logarithms lies above
# the real tail: a mean job holds 44,070 GPU-seconds here, 42,811 in the trace.
ONE = QuantileTable(
    (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.997, 0.998, 0.999, 0.9995,
     0.9999, 1),
    (1, 30, 52, 62, 76, 215, 600, 1117, 1728, 2464, 3754, 8512, 11166, 19137, 44233, 68252, 135399, 266914, 384255, 502224, 865709,
     1447517, 2618276, 3256045),
)  # fmt: skip
TWO_TO_FOUR = QuantileTable(
    (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1),
    (2, 6, 11, 15, 19, 25, 85, 367, 5583, 25424, 45388, 79258, 166120, 233082, 467465, 747317, 1122855, 2171244, 2750674),
)
FIVE_TO_EIGHT = QuantileTable(
    (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1),
    (1, 33, 125, 216, 785, 4011, 12382, 23683, 65014, 140721, 203050, 351982, 525618, 795161, 1060498, 2000448, 2656479, 4628226),
)
MORE = QuantileTable(
    (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1),
    (1, 35, 72, 345, 890, 3167, 21137, 53750, 73311, 158991, 247972, 443240, 613624, 1710643),
)

# [trace], measured: jobs of one GPU, and larger ones. The last four have 18 jobs between them.
QUEUES = {
    "6214e9": (40841, 385), "11cb48": (14607, 1484), "6c71a0": (9054, 899), "b436b2": (7237, 186), "103959": (1571, 363),
    "ee9e8c": (597, 914), "0e4a51": (1090, 345), "ed69ec": (1137, 0), "7f04ca": (204, 519), "2869ce": (64, 358),
    "e13805": (215, 159), "23dbec": (2, 6), "51b7ef": (4, 0), "925e2b": (1, 2), "795a4c": (3, 0),
}  # fmt: skip

# [trace], measured on its 13 whole weeks, 2017-09-20 to 12-19: every day's split over the hours and every week's split over
# the days (from Monday), in the mean, so that a burst (1,031 jobs in one hour) counts once. The clock's zone is not told.
HOURS = (1.33, 0.94, 1.06, 1.01, 0.92, 1.03, 1.55, 1.53, 1.01, 1.01, 1.04, 0.81,
         0.77, 0.75, 0.73, 0.71, 0.86, 0.85, 1.0, 0.87, 1.02, 0.99, 1.14, 1.06)  # fmt: skip
WEEKDAYS = (0.93, 1.41, 1.16, 1.15, 1.26, 0.51, 0.58)

MARGINALS = Marginals(
    source="Jeon et al., USENIX ATC 2019",
    # A fifth of Philly (2,490 GPUs: remembered, unconfirmed). The trace's own 6,247 jobs a week are a load of 0.86 on it.
    cluster="64x8",
    mean_gpu_s=44_070,  # of this file's own marginals
    gangs=CountedGangs(tuple(GANGS), tuple(GANGS.values())),
    run_times=RunTimesByGang((1, 4, 8), (ONE, TWO_TO_FOUR, FIVE_TO_EIGHT, MORE)),
    # Table 6, of the paper's 96,260 jobs, as others' validation notes print it: the paper itself was not at hand. Passed,
    # killed and unsuccessful are the paper's words.
    statuses=Statuses(
        names=("completed", "killed", "failed"),
        of_jobs=(0.693, 0.135, 0.172),
        of_gpu_time=(0.4453, 0.3769, 0.1778),
        long_s=DAY_S,
        long_jobs=0.0317,  # [trace], measured
        long_gpu_time=0.8408,  # [trace], measured
    ),
    queues=Queues(
        names=tuple(QUEUES),
        singles=tuple(ones for ones, _ in QUEUES.values()),
        gangs=tuple(larger for _, larger in QUEUES.values()),
    ),
    # 319 users (remembered, unconfirmed), so 21 a virtual cluster; Zipf's exponent of 1 is an assumption.
    users=Users(a_queue=21, exponent=1.0),
    rhythm=Rhythm(hours=HOURS, weekdays=WEEKDAYS),
)
