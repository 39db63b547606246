"""Training of one stage: the step, the loop, the teacher, checkpoints and metric writers."""
