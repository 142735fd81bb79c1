#!/bin/sh
# Look at the batch file, then hand it over: sixteen tasks, four at a time, a GPU each.
set -eu
style transfer photos/ --lora brush.safetensors -o gallery/ --submit slurm --tasks 16 --sbatch array=1-16%4 --sbatch gres=gpu:1 --sbatch time=02:00:00 --dry-run
style transfer photos/ --lora brush.safetensors -o gallery/ --submit slurm --tasks 16 --sbatch array=1-16%4 --sbatch gres=gpu:1 --sbatch time=02:00:00
style status gallery/
