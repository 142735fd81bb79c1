"""How experts learn: what is drawn, a step, what is kept, how progress is seen."""
