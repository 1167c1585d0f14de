#!/bin/bash
#SBATCH --job-name=transformer-text
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --output=transformer-text-%j.out

# `exec`: the launcher is then the process that gets the signals, not a shell in front of it.
exec accelerate launch --multi_gpu --num_processes 4 --num_machines 1 --mixed_precision no --dynamo_backend no \
    examples/transformer_text.py --steps 2000 --out transformer_text.pt
