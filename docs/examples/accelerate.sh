#!/bin/sh
# One LoRA of many pictures, its steps shared by two GPUs, or by two processes on CPUs.
set -eu
accelerate launch --multi_gpu --num_processes 2 -m stylecli train-lora sketches/ -o sketch.safetensors --set lora.batch=8 --steps 1000
torchrun --nproc-per-node 2 -m stylecli train-lora sketches/ -o sketch.safetensors --set lora.batch=8 --steps 1000 --device cpu
