#!/bin/bash
#SBATCH --job-name=cnn-images
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --output=cnn-images-%j.out

python examples/cnn_images.py --epochs 20 --out cnn_images.pt
