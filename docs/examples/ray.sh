#!/bin/sh
# One machine of the cluster begins it; the others join. All of them see the same folders.
set -eu
pip install 'stylecli[ray]'
ray start --head --port=6379            # on the first machine
# ray start --address=first-host:6379   # on each of the others
export RAY_ADDRESS=auto
style transfer /shared/photos --lora /shared/brush.safetensors -o /shared/gallery/ --engine ray --batch 8
ray stop
