"""Helios: SenseTime's Venus cluster, April to September 2020; few users, large gangs, half of the jobs minutes long.

Hu et al., "Characterization and Prediction of Deep Learning Workloads in Large-Scale GPU Datacenters", SC 2021.
Of its four clusters Venus, because most of its marginals can be checked: [summary] is helios_cluster_summary.csv of the
paper's artifact (125,303 GPU jobs of Venus), [bins] cluster_throughput.csv of Lucid's (Hu et al., ASPLOS 2023): all
125,214 GPU jobs and their GPUs, summed over every ten minutes.
"""

from trainmaster.workload.synth.marginals import DAY_S, CountedGangs, LognormalRunTimes, Marginals, Queues, Rhythm, Statuses, Users

# [bins], measured: the GPUs of the job in the 3,109 intervals that had exactly one. Quiet hours, so large gangs are a little
# too rare: a mean of 5.7 GPUs, where [summary] has 6.7. The median is 1 in both.
GANGS = {1: 1549, 2: 151, 3: 2, 4: 224, 5: 1, 6: 9, 7: 14, 8: 837, 16: 170, 24: 45, 32: 90, 40: 4, 48: 1, 56: 2, 64: 4, 80: 1, 96: 1,
         128: 1, 152: 1, 160: 2}  # fmt: skip

# Jobs a virtual cluster. September's 23,859: the five largest shares are printed in the README of Lucid's artifact; the
# rest is shared out by nodes (its vc_config.csv).
QUEUES = {"vcEwI": 7603, "vcWoR": 2826, "vcHvQ": 2654, "vcvGl": 1452, "vc8Gr": 710, "vcJsw": 3168, "vcKeu": 1188, "vcYVn": 1089,
          "vcefl": 990, "vcLTP": 792, "vcKrE": 396, "vchbv": 396, "vchA3": 297, "vcvlY": 198, "vcgkz": 99}  # fmt: skip

# [bins], measured: jobs submitted by weekday, Monday first, and hour, April to September, local time.
WEEKDAYS = (1.022, 1.104, 1.274, 1.201, 0.947, 0.68, 0.771)
HOURS = (0.897, 0.658, 0.6, 0.384, 0.268, 0.205, 0.187, 0.224, 0.374, 0.796, 1.295, 1.474,
         1.164, 1.299, 1.559, 1.656, 1.734, 1.733, 1.282, 1.313, 1.345, 1.364, 1.149, 1.038)  # fmt: skip

# [summary]: GPU-seconds of Venus' jobs that completed, were cancelled, failed.
GPU_TIME = (6_373_315_670.0, 4_920_266_598.0, 1_052_030_340.0)

MARGINALS = Marginals(
    source="Hu et al., SC 2021 (Venus)",
    cluster="128x8",  # Venus: 1,022 GPUs in nodes of 8 [summary]
    mean_gpu_s=sum(GPU_TIME) / 125_303,
    gangs=CountedGangs(tuple(GANGS), tuple(GANGS.values())),
    # Three numbers of [summary] fix three parameters over the gangs above: median 204 s, mean 13,040.6 s, 98,526 GPU-seconds
    # a job. The longest job ran 50 days (table 2; remembered, unconfirmed).
    run_times=LognormalRunTimes(median_s=158.75, sigma=2.972, gang_exponent=0.2438, longest_s=50 * DAY_S),
    statuses=Statuses(
        names=("completed", "killed", "failed"),
        of_jobs=(0.526, 0.272, 0.202),  # [summary], GPU jobs of Venus
        of_gpu_time=tuple(part / sum(GPU_TIME) for part in GPU_TIME),
        long_s=9_382.0,  # the longest tenth of the run times above
        long_jobs=0.1,
        long_gpu_time=0.952,
    ),
    queues=Queues(names=tuple(QUEUES), singles=tuple(QUEUES.values()), gangs=tuple(QUEUES.values())),
    # 200 to 400 users a cluster (section 3.3; remembered, unconfirmed); Zipf's exponent of 1 is an assumption.
    users=Users(a_queue=16, exponent=1.0),
    rhythm=Rhythm(hours=HOURS, weekdays=WEEKDAYS),
)
