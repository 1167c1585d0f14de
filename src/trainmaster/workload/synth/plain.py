"""Plain: the continuous trace of Gavel's evaluation, a workload that no cluster had and everyone compares on.

Narayanan et al., "Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads", OSDI 2020, section 7; the
numbers as its public generator has them. Poisson arrivals without rhythm; no queues, users or failures.
"""

from trainmaster.workload.synth.marginals import CountedGangs, Marginals, QuantileTable, Rhythm

MARGINALS = Marginals(
    source="Narayanan et al., OSDI 2020",
    cluster="16x8",
    mean_gpu_s=60_362 * 1.9,  # a mean of 16.8 h, on 1.9 GPUs
    gangs=CountedGangs((1, 2, 4, 8), (70, 10, 15, 5)),  # per cent
    # minutes = 10 ** U(1.5, 3) with probability 0.8, else 10 ** U(3, 4)
    run_times=QuantileTable((0.0, 0.8, 1.0), (60 * 10**1.5, 60 * 10**3, 60 * 10**4)),
    rhythm=Rhythm(),
)
