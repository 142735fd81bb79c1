"""What a run is asked to do, as frozen data: no torch, no weights, no images."""
